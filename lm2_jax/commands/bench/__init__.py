"""`lm2 bench NAME`: one module for each measurement."""
