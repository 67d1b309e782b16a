"""Generated English prose."""
