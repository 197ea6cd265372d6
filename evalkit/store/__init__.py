"""The run directory: atomic files, claims, runs, raw values."""
