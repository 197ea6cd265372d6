"""`evalkit doctor`: the checks of a variant, and carrying them out."""
