"""Numbers and words as tables show them: as many digits as the interval supports."""

from __future__ import annotations

import math
import re

from evalkit.plain_text import clean as clean  # noqa: PLC0414  used as numbers.clean

MISSING = "–"
MINUS = "−"
_HUGE = 1e7
_MOST_PLACES = 6


def places(scale: float, digits: int = 2, least: int = 0) -> int:
    """Decimal places that show `digits` significant digits of `scale`, at least `least`."""
    if not math.isfinite(scale) or scale <= 0:
        return max(least, 2)
    if scale >= _HUGE:
        return least
    # Rounding may carry into a digit more: 0.9997 with three digits is 1.00.
    rounded = float(f"{scale:.{digits}g}")
    return min(_MOST_PLACES, max(least, digits - 1 - math.floor(math.log10(rounded))))


def plain(value: float, decimals: int) -> str:
    """`value` with thousands separators and a true minus sign; 1.2e+09 where it is huge."""
    if abs(value) >= _HUGE:
        return f"{value:.1e}".replace("-", MINUS)
    text = f"{value:,.{decimals}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def signed(value: float, decimals: int) -> str:
    """`value` as a difference: "+ 0.12", "− 0.12", or "0.00" where nothing of it shows."""
    text = plain(abs(value), decimals)
    if not text.strip("0.,"):
        return text
    return f"{'+' if value > 0 else MINUS} {text}"


def spaced(margin: str) -> str:
    """A margin with a space before its unit: "1 pp"."""
    return re.sub(r"(?<=[\d.])(?=pp|%)", " ", clean(margin))


def counted(number: int, noun: str) -> str:
    """ "1 variant", "1,024 windows"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def byte_size(value: float) -> str:
    """Bytes in decimal units: "14.8 GB", "525 kB"."""
    units = ("B", "kB", "MB", "GB", "TB")
    index = 0
    while value >= 999.5 and index < len(units) - 1:
        value, index = value / 1000, index + 1
    return f"{value:.{0 if index == 0 or value >= 99.95 else 1}f} {units[index]}"


def figure(value: float, unit: str) -> str:
    """A number in four digits, bytes in decimal units; the unit itself is not written."""
    if unit == "bytes" and value >= 0:
        return byte_size(value)
    if value != 0 and abs(value) < 1e-3:
        return small(value)
    return plain(value, places(abs(value), 4))


def rate(value: float) -> str:
    """Tokens per second with about three digits: "8.25 tok/s"."""
    text = plain(value, places(value, 3))
    return f"{text.replace(',', '') if value < 10_000 else text} tok/s"


def times(ratio: float) -> str:
    """A factor: "× 1.3", "× 0.85"."""
    return f"× {plain(ratio, _ratio_places(ratio))}"


def divided(ratio: float) -> str:
    """How many times smaller: "÷ 3.4"; "× 1.2" where it is larger."""
    if ratio >= 1:
        return f"÷ {plain(ratio, _ratio_places(ratio))}"
    return times(1 / ratio)


def small(value: float) -> str:
    """A divergence in nats: four decimals, or powers of ten below a thousandth."""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}".replace("-", MINUS)
    return plain(value, 4)


def percent(fraction: float) -> str:
    """A fraction as "98.7 %"; more digits where one would round it up to 100 %."""
    value = 100 * fraction
    decimals = 1
    while decimals < 5 and value < 100 and f"{value:.{decimals}f}".startswith("100"):
        decimals += 1
    return f"{plain(value, decimals)} %"


def around(
    value: float, low: float | None, high: float | None, least: int = 2, unit: str = ""
) -> str:
    """A value with its interval: "3.69 ± 0.12", or "21.0 [9.1, 48.3]" where ± would not be true.

    The half-width stands for both sides where neither differs from it by more than a tenth. An
    interval wider than the value says nothing of it: "21.00, too few".
    """
    if low is None or high is None:
        return f"{plain(value, places(value, 3, least) if value < 1000 else 0)}{unit}"
    half = (high - low) / 2
    decimals = places(half, 2, least) if half < 10 else 0
    shown = f"{plain(value, decimals)}{unit}"
    if high - low > abs(value):
        return f"{plain(value, least)}{unit}, too few"
    if abs(high - value - half) > half / 10:
        return f"{shown} [{plain(low, decimals)}, {plain(high, decimals)}]"
    return f"{shown} ± {plain(half, decimals)}"


def difference(
    delta: float, low: float | None, high: float | None, least: int = 2, unit: str = ""
) -> str:
    """A difference with its interval: "+ 0.12 [0.10, 0.14]", "+ 1.1 % [0.8, 1.4]"."""
    unit = f" {unit}" if unit else ""
    if low is None or high is None:
        return signed(delta, places(abs(delta), 2, least)) + unit
    scale = max(abs(delta), (high - low) / 2)
    decimals = places(scale, 2, least) if scale < 10 else 0 if scale >= 100 else 1
    return f"{signed(delta, decimals)}{unit} [{plain(low, decimals)}, {plain(high, decimals)}]"


def count(value: float) -> str:
    """A number of things in three digits: "950", "60.3k", "4.82 M", "7.39 B"."""
    for unit in ("", "k", " M"):
        if value < 999.5:
            return f"{plain(value, 0 if not unit else places(value, 3))}{unit}"
        value /= 1000
    return f"{plain(value, places(value, 3))} B"


def _ratio_places(ratio: float) -> int:
    return 2 if ratio < 0.995 else 1 if ratio < 99.95 else 0
