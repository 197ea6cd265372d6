"""Draw docs/images/verdict.svg: intervals against the margin, each with the word of the rule.

    python scripts/draw_verdicts.py

The words are those that `evalkit.analysis.verdicts.judge` gives, so the picture cannot say another
rule than the table. No plotting library: a picture of twenty lines stays readable as text.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from evalkit.analysis.bootstrap import Interval
from evalkit.analysis.verdicts import is_beyond, judge
from evalkit.records import Verdict

FILE = Path(__file__).resolve().parents[1] / "docs" / "images" / "verdict.svg"
MARGIN, NOISE = 1.0, 0.1
# Losses in percentage points, from the least to the most that the data allow.
LOSSES = ((-1.4, -0.4), (-0.5, 0.6), (0.3, 0.8), (-0.4, 1.7), (0.4, 1.6), (1.3, 2.4), (-0.05, 0.08))
WIDTH, ROW, TOP, LEFT, SCALE = 720, 34, 58, 190, 110
INK, MUTED, BAND, PAPER = "#1f2329", "#656d77", "#d8dee5", "#ffffff"


def main() -> None:
    FILE.write_text(picture(), encoding="utf-8")


def picture() -> str:
    """The SVG: a line an interval, the margin as a band, the noise floor as a darker one."""
    bottom = TOP + ROW * len(LOSSES)
    parts = [
        _band(0.0, MARGIN, bottom, BAND),
        _band(-NOISE, NOISE, bottom, "#b9c3cd"),
        _text(_x(0), 20, "no difference", "middle", MUTED),
        _text(_x(MARGIN), 38, "margin, 1 pp", "middle", MUTED),
        f'<path d="M{_x(0)} 44V{bottom}" stroke="{INK}"/>',
        f'<path d="M{_x(MARGIN)} 44V{bottom}" stroke="{INK}" stroke-dasharray="4 3"/>',
    ]
    for place, (least, most) in enumerate(LOSSES):
        parts += _line(TOP + ROW * place + ROW // 2, least, most)
    parts.append(_text(_x(0.5), bottom + 22, "loss, percentage points (left is better)", "middle"))
    height = bottom + 34
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        ' font-family="sans-serif" font-size="14"><title>Intervals of a loss against the margin,'
        f' each with its verdict</title><rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>'
        + "\n".join(parts)
        + "</svg>\n"
    )


def words(least: float, most: float) -> str:
    """What the table says of a loss between `least` and `most`."""
    loss = Interval((least + most) / 2, least, most)
    word = judge(loss, margin=MARGIN, direction="lower", noise_floor=NOISE)
    beyond = is_beyond(loss, margin=MARGIN, direction="lower", noise_floor=NOISE)
    return Verdict(word, is_beyond_margin=beyond).text


def _line(y: int, least: float, most: float) -> list[str]:
    start, end = _x(least), _x(most)
    return [
        f'<path d="M{start} {y}H{end}M{start} {y - 6}v12M{end} {y - 6}v12" stroke="{INK}"'
        ' stroke-width="2"/>',
        f'<circle cx="{(start + end) / 2:.0f}" cy="{y}" r="4" fill="{INK}"/>',
        _text(WIDTH - 12, y + 5, words(least, most), "end"),
    ]


def _band(low: float, high: float, bottom: int, colour: str) -> str:
    return (
        f'<rect x="{_x(low)}" y="44" width="{_x(high) - _x(low)}" height="{bottom - 44}"'
        f' fill="{colour}"/>'
    )


def _text(x: int, y: int, text: str, anchor: str, colour: str = INK) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _x(loss: float) -> int:
    return round(LEFT + SCALE * loss)


if __name__ == "__main__":
    main()
