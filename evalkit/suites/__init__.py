"""On what variants are measured: texts, windows, tasks, calibration, presets."""
