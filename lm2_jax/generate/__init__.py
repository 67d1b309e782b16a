"""Reading and generating text with a trained model."""
