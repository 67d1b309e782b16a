"""What a run needs of its machine: processes, signals, locks, devices."""
