"""The decoder, its memories and the schedules that run it over segments."""
