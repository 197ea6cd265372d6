"""Models that run in a server of their own, reached over the OpenAI-compatible HTTP API."""
