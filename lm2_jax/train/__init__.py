"""Loss, optimizer, the pure training step and the loop around it."""
