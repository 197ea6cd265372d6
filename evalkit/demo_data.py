"""Where the embedded demo data lies: model, texts and tasks. Imports nothing heavy.

It stands outside models/ and suites/ because both need it and neither may import the other.
"""

from __future__ import annotations

from pathlib import Path

from evalkit.errors import DataError


def demo_directory() -> Path:
    """The directory of the demo data: data/demo of a checkout, evalkit/_data/demo of a wheel.

    Raises DataError where neither is there (an incomplete installation).
    """
    package = Path(__file__).resolve().parent
    places = (package.parent / "data" / "demo", package / "_data" / "demo")
    for place in places:
        if place.is_dir():
            return place
    raise DataError(
        f"the demo data is in neither {places[0]} nor {places[1]}: reinstall evalkit, "
        "or name a model with --model and texts with --text"
    )
