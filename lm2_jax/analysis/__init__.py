"""Measures and pictures of what a trained memory does, for the page of `lm2 analyze`."""
