"""What differs between answers: forks, leads, survival, the noise floor, faults and checks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from evalkit.analysis.answer_faults import (
    asks_for_json,
    holds_json,
    is_looping,
    is_right,
    script_of,
)
from evalkit.analysis.answers import (
    Along,
    Said,
    first_difference,
    judged,
    most_telling,
    noise_floor,
    parted,
    sentence,
    with_differences,
    with_divergence,
    with_summary,
)
from evalkit.analysis.verdicts import parse_margin
from evalkit.records.answers import AnswersRow, Check, Message, Prompt

MOST = 8


def said(*tokens: int, text: str = "", leads: tuple[float, ...] = ()) -> Said:
    return Said(text or " ".join(map(str, tokens)), tokens, "length", leads or (1.0,) * len(tokens))


def row(name: str, mine: list[Said], base: list[Said], prompts: list[Prompt]) -> AnswersRow:
    first = with_summary(AnswersRow("fp16", "", label="fp16"), prompts, judged(prompts, base))
    if mine is base:
        return first
    answers = parted(judged(prompts, mine), first.answers, [one.leads for one in base])
    other = with_summary(AnswersRow(name, "", label=name), prompts, answers)
    floor = noise_floor([(one, one) for one in base])
    return with_differences(other, first, floor, parse_margin("1pp"), MOST)


@pytest.mark.parametrize(
    ("one", "other", "at"),
    [([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1], [1, 3], 1), ([], [4], 0)],
)
def test_answers_part_at_the_first_token_that_only_one_has(
    one: list[int], other: list[int], at: int | None
) -> None:
    assert first_difference(one, other) == first_difference(other, one) == at


def test_forks_and_leads_are_those_of_an_independent_count() -> None:
    random = np.random.default_rng(0)
    base = [
        said(*random.integers(0, 3, MOST).tolist(), leads=tuple(random.random(MOST)))
        for _ in range(40)
    ]
    mine = [said(*np.where(random.random(MOST) < 0.1, 9, one.tokens).tolist()) for one in base]
    prompts = [Prompt("p")] * len(base)
    found = row("int4", mine, base, prompts)
    first = row("fp16", base, base, prompts)
    differing = np.array([one.tokens for one in mine]) != np.array([one.tokens for one in base])
    forks = [int(line.argmax()) for line in differing if line.any()]
    same = sum(not line.any() for line in differing)
    leads = [base[i].leads[int(line.argmax())] for i, line in enumerate(differing) if line.any()]
    assert found.identical is not None
    assert found.identical.value == same / 40
    interval = binomtest(same, 40).proportion_ci(method="wilson")
    assert (found.identical.low, found.identical.high) == pytest.approx(interval)
    assert found.first_difference_median is not None
    assert found.first_difference_median.value == np.median(forks)
    assert found.margin_median == pytest.approx(np.median(leads))
    assert [n for n, _ in found.survival] == [1, 2, 4, 8]
    for n, share in found.survival:
        assert share.value == np.mean([not line[:n].any() for line in differing])
    assert [a.prompt for a in most_telling(found, first, 1)] == [
        max((a for a in found.answers if a.margin is not None), key=lambda a: a.margin or 0).prompt
    ]


def test_the_noise_floor_is_the_largest_change_of_a_lead() -> None:
    pairs = [
        (said(1, 2, 3, leads=(1.0, 0.5, 0.3)), said(1, 2, 3, leads=(1.2, 0.5, 0.3))),
        (said(1, 2, 3, leads=(1.0, 0.2, 9.0)), said(1, 5, 3, leads=(1.0, 0.1, 0.0))),
    ]
    floor = noise_floor(pairs)
    assert floor.forked.value == 0.5
    assert floor.margin == pytest.approx(0.3)  # 0.2 of one token's lead became 0.1 of another's
    # A lead at the floor is a tie.
    base = [one for one, _ in pairs]
    prompts = [Prompt("p")] * 2
    first = row("fp16", base, base, prompts)
    answers = parted(
        judged(prompts, [said(1, 2, 4), said(9)]), first.answers, [one.leads for one in base]
    )
    other = with_summary(AnswersRow("int4", ""), prompts, answers)
    found = with_differences(other, first, floor, parse_margin("1pp"), 3)
    assert [one.margin for one in found.answers] == [0.3, 1.0]
    assert found.near_ties is not None
    assert found.near_ties.value == 0.5
    # Of what is drawn a lead says nothing.
    drawn = noise_floor([(Said("", (1,), "end", ()), Said("", (1,), "end", ()))])
    assert drawn.margin is None


def test_flips_have_the_verdict_of_the_paired_statistics() -> None:
    prompts = [Prompt("p", reference="yes", check="contains")] * 60
    base = [said(1, text="Yes.")] * 60
    same = row("same", [said(1, text="yes")] * 60, base, prompts)
    worse = row("worse", [said(2, text="no")] * 30 + [said(1, text="Yes.")] * 30, base, prompts)
    assert worse.checks is not None
    assert worse.checks.right_to_wrong == 30
    assert worse.checks.wrong_to_right == 0
    assert worse.checks.verdict == "worse"
    assert worse.checks.p == pytest.approx(binomtest(30, 30).pvalue)
    assert same.checks is not None
    assert same.checks.verdict == "inconclusive"  # sixty items cannot rule out one point
    first = row("fp16", base, base, prompts)
    assert first.checks is not None
    assert first.checks.verdict == "baseline"
    assert sentence([first, same, worse], 60) == (
        "same answers 60 of 60 prompts token for token as fp16 does (no flip);"
        " worse 30 (30 right to wrong)."
    )
    assert {a.prompt for a in most_telling(worse, first, 60)} == set(range(30))


def test_divergence_is_a_mean_over_tokens_with_an_interval_over_prompts() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(1, 20, 50).astype(float)
    kl = tokens * random.random(50)
    found = with_divergence(AnswersRow("int4", ""), Along(kl, tokens / 2, tokens))
    assert found.divergence is not None
    assert found.divergence.value == pytest.approx(kl.sum() / tokens.sum())
    assert found.divergence.low is not None
    assert found.divergence.high is not None
    assert found.divergence.low < found.divergence.value < found.divergence.high
    assert found.same_top1 is not None
    assert found.same_top1.value == pytest.approx(0.5)
    one = with_divergence(AnswersRow("int4", ""), Along(kl[:1], tokens[:1], tokens[:1]))
    assert one.divergence is not None
    assert one.divergence.low is None


@pytest.mark.parametrize(
    ("check", "reference", "text", "right"),
    [
        ("exact", "Paris", " Paris\n", True),
        ("exact", "Paris", "paris", False),
        ("contains", "paris", "It is Paris.", True),
        ("regex", r"\bPari[sz]\b", "Pariz it is", True),
        ("regex", r"^\d+$", "12 a", False),
        ("number", "1234.5", "3 times, so 1,234.50", True),
        ("number", "-3", "minus: -3.", True),
        ("number", "3", "none", False),
        ("number", "3", "3, then 4", False),
        ("json", "", 'Sure:\n```json\n{"a": [1]}\n```', True),
        ("json", "", "{'a': 1}", False),
        ("", "", "anything", None),
    ],
)
def test_checks(check: Check, reference: str, text: str, right: bool | None) -> None:
    assert is_right(Prompt("p", reference=reference, check=check), text) is right


def test_json_is_asked_for_in_words_or_by_the_check() -> None:
    assert asks_for_json(Prompt("Answer in JSON."))
    assert asks_for_json(Prompt("a", (Message("system", "Write JSON"), Message("user", "a"))))
    assert asks_for_json(Prompt("a", check="json"))
    assert not asks_for_json(Prompt("who is Json?"))
    assert not holds_json("{" * 100_000)


def test_loops_and_scripts() -> None:
    assert is_looping([1, 2, 3] + [7] * 20)
    assert is_looping([5, *([1, 2, 3, 4, 5, 6, 7, 8, 9] * 3)])
    assert not is_looping([7] * 19)
    assert not is_looping([7] * 40 + [0])  # it ended
    assert not is_looping(list(range(60)))
    assert script_of("Die Antwort ist 42") == "LATIN"
    assert script_of("Ответ простой") == "CYRILLIC"
    assert script_of("42!") == ""


def test_faults_are_shares_of_answers() -> None:
    prompts = [Prompt("Give JSON"), Prompt("Give JSON"), Prompt("p"), Prompt("p")]
    base = [said(1, text='{"a": 1}'), said(1, text="[1]"), said(1), said(1, text="eine Antwort")]
    mine = [
        said(1, text='{"a": 1'),
        said(1, text="[1]"),
        said(*[4] * 30),
        said(2, text="ответ дан"),
    ]
    found = row("int4", [*mine[:3], mine[3]], base, prompts)
    assert found.broken_json is not None
    assert (found.broken_json.value, found.broken_json.n) == (0.5, 2)
    assert found.looping is not None
    assert found.looping.value == 0.25
    assert found.other_script is not None
    assert found.other_script.value == 0.25
    assert found.empty is not None
    assert found.empty.value == 0
