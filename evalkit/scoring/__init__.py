"""The shared engine: token scoring, prefix sharing, the reference cache."""
