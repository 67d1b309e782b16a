"""Tables, plots and reports of results, gates and compiled programs."""
