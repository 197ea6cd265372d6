"""Charts of a bench: functions of the bench alone."""
