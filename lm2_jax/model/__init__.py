"""The decoder, its memory modules, and the schedules that apply it to sequences of segments."""
