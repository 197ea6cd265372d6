"""`evalkit batch`: a notebook over a grid of parameters."""
