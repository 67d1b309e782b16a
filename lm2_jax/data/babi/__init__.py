"""Stories of the bAbI tasks: types, files and simulator."""
