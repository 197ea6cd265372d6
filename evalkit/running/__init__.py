"""One variant in its own process; resume."""
