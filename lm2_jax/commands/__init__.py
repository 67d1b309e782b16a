"""The commands of lm2, one file each."""
