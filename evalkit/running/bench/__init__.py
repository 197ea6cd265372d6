"""`evalkit bench`: its plan, its rounds, and their summary."""
