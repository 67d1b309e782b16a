"""A simulator of bAbI stories."""
