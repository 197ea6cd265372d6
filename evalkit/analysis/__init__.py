"""Statistics, comparison and verdicts: pure functions."""
