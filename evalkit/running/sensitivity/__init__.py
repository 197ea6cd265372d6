"""The damage map: what is exchanged, the passes that measure it, and how they are put together."""
