"""Charts of a damage map."""
