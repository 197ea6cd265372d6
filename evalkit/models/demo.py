"""The embedded demo model's place; see evalkit.demo_data, which the suites share."""

from __future__ import annotations

from evalkit.demo_data import demo_directory

__all__ = ["demo_directory"]
