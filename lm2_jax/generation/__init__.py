"""Reading texts of any length, and writing on from what was read."""
