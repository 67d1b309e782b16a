"""What a run leaves behind: metrics files, tables, plots."""
