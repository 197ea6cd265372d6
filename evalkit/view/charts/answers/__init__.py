"""Charts of answers: functions of the answers alone."""
