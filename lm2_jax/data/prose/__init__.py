"""A generator of English prose."""
