"""Charts of a search: one file each."""
