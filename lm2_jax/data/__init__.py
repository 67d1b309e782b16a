"""Text of the tasks and of the background, tokens, and batches of them."""
