"""Charts of a plan: functions of the plan alone."""
