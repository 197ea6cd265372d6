"""evalkit: what quantizing a language model costs in quality and buys in speed and memory."""

__version__ = "0.1.0"
