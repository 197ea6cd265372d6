"""Running a model: shared prefixes, decoding, engines, timing, speculation."""
