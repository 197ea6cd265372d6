"""Imported once by the forkserver, so that every child starts with the heavy libraries loaded."""

import evalkit.models.phi3_small  # noqa: F401
