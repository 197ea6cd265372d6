"""Charts of a comparison: functions of the comparison and the raw values behind it."""
