"""What Triton and Inductor need on this machine to build a kernel while a program runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path


def missing_for_triton() -> str | None:
    """What is missing for Triton's kernels, in words; None where nothing is.

    Triton writes the launcher of each kernel in C and builds it at first use against Python's
    headers, so that the package alone is not enough. Looked up as Triton does: the compiler in
    the variable CC, else gcc or clang in PATH.
    """
    missing = []
    if importlib.util.find_spec("triton") is None:
        missing.append("the package triton")
    if not _has_compiler():
        missing.append("a C compiler (gcc)")
    if not _python_header().is_file():
        missing.append("Python's headers (Python.h)")
    return " and ".join(missing) or None


def _has_compiler() -> bool:
    named = os.environ.get("CC")
    names = ("gcc", "clang") if named is None else (named,)
    return any(shutil.which(name) for name in names)


def _python_header() -> Path:
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme points below /usr/local, where no headers are.
    scheme = "posix_prefix" if scheme == "posix_local" else scheme
    return Path(sysconfig.get_path("include", scheme)) / "Python.h"
