from __future__ import annotations

import math

import pytest

from evalkit import numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (525_312, "525 kB"),
        (9_640_000, "9.6 MB"),
        (99_960_000, "100 MB"),
        (999_600, "1.0 MB"),
        (14_784_544_768, "14.8 GB"),
        (4e15, "4000 TB"),
    ],
)
def test_byte_size(value: float, expected: str) -> None:
    assert numbers.byte_size(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(950, "950"), (60_312, "60.3k"), (999_700, "1.00 M"), (7_392_272_384, "7.39 B")],
)
def test_count(value: float, expected: str) -> None:
    assert numbers.count(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(8.254, "8.25 tok/s"), (88.25, "88.2 tok/s"), (4210.4, "4210 tok/s"), (51234, "51,234 tok/s")],
)
def test_rate(value: float, expected: str) -> None:
    assert numbers.rate(value) == expected


def test_factors_say_in_which_direction() -> None:
    assert numbers.divided(3.42) == "÷ 3.4"
    assert numbers.divided(1.0) == "÷ 1.0"
    assert numbers.divided(0.5) == "× 2.0"
    assert numbers.times(1.31) == "× 1.3"
    assert numbers.times(0.853) == "× 0.85"
    assert numbers.times(123.4) == "× 123"


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (1.0, "100.0 %"),
        (0.98765, "98.8 %"),
        (0.9998, "99.98 %"),
        (0.99996, "99.996 %"),
        (0, "0.0 %"),
    ],
)
def test_percent_does_not_round_up_to_all(fraction: float, expected: str) -> None:
    assert numbers.percent(fraction) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((3.694, 3.57, 3.82), "3.69 ± 0.12"),
        ((3.694, 3.694, 3.694), "3.69 ± 0.00"),
        ((3.694, None, None), "3.69"),
        ((12345.6, 12000.0, 12700.0), "12,346 ± 350"),
        ((3e9, 2e9, 4e9), "3.0e+09 ± 1.0e+09"),
        ((21.0, 13.1, 33.7), "21 [13, 34]"),
        ((2.0, 1.5, 2.8), "2.00 [1.50, 2.80]"),
        ((21.0, 1.0, 55.3), "21.00, too few"),
        ((0.4, 0.0, 1.1, 1, " %"), "0.4 %, too few"),
        ((21.0, 19.05, 23.05), "21.00 ± 2.00"),
    ],
)
def test_around(arguments: tuple[float, float | None, float | None], expected: str) -> None:
    assert numbers.around(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0.0123, 0.01, 0.015), "+ 0.012 [0.010, 0.015]"),
        ((-0.21, -0.25, 0.05), "− 0.21 [−0.25, 0.05]"),
        ((0.0, 0.0, 0.0), "0.00 [0.00, 0.00]"),
        ((0.5, 0.5, 0.5), "+ 0.50 [0.50, 0.50]"),
        ((-0.00002, -0.00003, -0.00001), "− 0.000020 [−0.000030, −0.000010]"),
        ((1e-12, 0.0, 2e-12), "0.000000 [0.000000, 0.000000]"),
        ((1234.5, 1000.0, 1500.0), "+ 1,234 [1,000, 1,500]"),
        ((0.3, None, None), "+ 0.30"),
    ],
)
def test_difference(arguments: tuple[float, float | None, float | None], expected: str) -> None:
    assert numbers.difference(*arguments) == expected


def test_small_divergences_keep_their_size() -> None:
    assert numbers.small(0.0) == "0.0000"
    assert numbers.small(0.04213) == "0.0421"
    assert numbers.small(3.1e-7) == "3.1e−07"
    assert numbers.small(2.5) == "2.5000"


def test_places_of_nothing_and_of_infinity() -> None:
    assert numbers.places(0.0) == 2
    assert numbers.places(math.inf) == 2
    assert numbers.places(1e-20) == 6
    assert numbers.places(1.79e308) == 0


def test_clean_leaves_one_line_without_commands_to_the_terminal() -> None:
    dirty = "a\x1b[31mred\x1b[0m\nb\x1b]0;title\x07c\rd\x00e\u202ef\u009bg\ud800h  i"
    assert numbers.clean(dirty) == "ared bc d ef g h i"
    assert numbers.clean("÷ 3.4 [bold] 東京 é") == "÷ 3.4 [bold] 東京 é"


def test_a_figure_has_four_digits_and_bytes_have_units() -> None:
    assert numbers.figure(2.34619e7, "bytes") == "23.5 MB"
    assert numbers.figure(1234.567, "tokens/s") == "1,235"
    assert numbers.figure(0.000123, "nats") == "1.2e−04"
