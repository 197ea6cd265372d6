"""Answers for tests of what shows them."""

from __future__ import annotations

import dataclasses
import random

from evalkit.analysis.answers import (
    Said,
    judged,
    noise_floor,
    parted,
    sentence,
    with_differences,
    with_summary,
)
from evalkit.analysis.verdicts import parse_margin
from evalkit.records import Model
from evalkit.records.answers import Answers, AnswersRow, Message, Prompt

HOSTILE = "<script>document.title='stolen'</script><img src=http://example.org/x onerror=alert(1)>"
RIGHT_TO_LEFT = "שלום עולם, זה טקסט מימין לשמאל"
LETTERS = [
    "the",
    "old",
    "red",
    "house",
    "stands",
    "near",
    "a",
    "river",
    "under",
    "tall",
    "trees",
    "and",
    "nobody",
    "sees",
    "it",
]


def said(text: str) -> Said:
    """Words as tokens."""
    tokens = tuple(hash(word) % 50_000 for word in text.split(" "))
    return Said(text, tokens, "length", tuple(0.5 + i / 10 for i in range(len(tokens))), 0.1)


def answers(prompts: list[Prompt], texts: dict[str, list[str]], store: str = "store") -> Answers:
    """The answers of variants by label, the baseline's first."""
    spoken = {label: [said(text) for text in own] for label, own in texts.items()}
    labels = list(spoken)
    base = spoken[labels[0]]
    floor = noise_floor([(one, one) for one in base])
    rows: list[AnswersRow] = []
    for label in labels:
        row = AnswersRow(label, f"{label}@x", label=label, kernel="Linear")
        found = judged(prompts, spoken[label])
        if rows:
            found = parted(found, rows[0].answers, [one.leads for one in base])
        row = with_summary(row, prompts, found)
        if rows:
            row = with_differences(row, rows[0], floor, parse_margin("1pp"), 128)
        rows.append(row)
    return Answers(
        Model("demo", "x"), labels[0], tuple(prompts), tuple(rows), floor, "1pp",
        "greedy, up to 128 tokens", sentence(rows, len(prompts)), store=store,
    )  # fmt: skip


def hostile() -> Answers:
    """A few answers, with HTML, text from right to left, a chat, a flip, a loop and a failure."""
    prompts = [
        Prompt(f"Say {HOSTILE}"),
        Prompt("Capital of France?", reference="Paris", check="contains"),
        Prompt(RIGHT_TO_LEFT, (Message("system", "Be brief."), Message("user", RIGHT_TO_LEFT))),
        Prompt("Write code"),
    ]
    code = "def f():\n    return 1 \N{GRINNING FACE} done"
    base = [f"I say {HOSTILE} now", "It is Paris.", f"כן {RIGHT_TO_LEFT}", code]
    int8 = [*base[:3], code]
    int4 = [
        f"I say {HOSTILE} later",
        "It is Lyon.",
        f"כן {RIGHT_TO_LEFT}",
        code[:-4] + " ".join("a" * 40),
    ]
    found = answers(prompts, {f"fp16{HOSTILE}": base, "int8": int8, "int4": int4})
    failed = AnswersRow("awq", "int4@awq", "failed", f"no card {HOSTILE}", label="awq")
    return dataclasses.replace(found, rows=(*found.rows, failed))


def many(prompts: int, variants: int, words: int = 100) -> Answers:
    """As many answers of so many words, which part somewhere."""
    draw = random.Random(0)
    base = [" ".join(draw.choices(LETTERS, k=words)) for _ in range(prompts)]
    texts = {"fp16": base}
    for number in range(1, variants):
        texts[f"int{number}"] = [
            " ".join([*one.split(" ")[: draw.randrange(words)], *draw.choices(LETTERS, k=words)])
            for one in base
        ]
    asked = [" ".join(draw.choices(LETTERS, k=30)) for _ in range(prompts)]
    return answers([Prompt(f"Question {i}: {one}") for i, one in enumerate(asked)], texts)
