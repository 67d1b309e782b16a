"""Stories of the bAbI tasks: files and simulator."""
