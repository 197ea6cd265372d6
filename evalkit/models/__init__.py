"""What is evaluated: resolving a name to a checkpoint and loading it."""
