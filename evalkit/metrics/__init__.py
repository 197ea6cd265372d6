"""What is measured: one file a metric family."""
