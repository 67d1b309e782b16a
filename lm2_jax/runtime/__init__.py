"""Processes, signals, locks of a workdir, devices, timing and terminal output of a run."""
