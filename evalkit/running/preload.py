"""Imported once by the forkserver, so that every child starts with the heavy libraries loaded."""

import warnings

warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)

import evalkit.models.phi3_small  # noqa: E402
import evalkit.running.compare.tasks  # noqa: E402
import evalkit.running.compare.worker  # noqa: E402, F401
