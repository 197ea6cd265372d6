"""An example of a package that extends evalkit; only its documented interface is imported."""
