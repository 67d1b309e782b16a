"""BABILong samples: the facts of bAbI stories scattered through prose."""
