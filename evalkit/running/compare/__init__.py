"""`evalkit compare`: its plan, its parts, and carrying them out."""
