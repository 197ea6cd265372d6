"""How a variant is made and loaded: one file a backend, the file name is its name."""

from evalkit.backends._parse import BARE, parse_variant, spec_of
from evalkit.backends._spec import (
    BackendSpec,
    Option,
    check_device,
    check_installed,
    resolved_options,
)

__all__ = [
    "BARE",
    "BackendSpec",
    "Option",
    "check_device",
    "check_installed",
    "parse_variant",
    "resolved_options",
    "spec_of",
]
