"""Checkpoints: saving, restoring, integrity, and the workdir that holds them."""
