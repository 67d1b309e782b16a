"""Text: files, sentences and background prose."""
