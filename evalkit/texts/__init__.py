"""The texts a model is evaluated on: documents, windows, encoding, calibration, presets."""
