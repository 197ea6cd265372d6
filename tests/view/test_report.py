"""The HTML report: self-contained, escaped, accessible, of bounded size."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from evalkit.records import Comparison, Flip, Row, Variant, Verdict
from evalkit.view.report import render_html
from evalkit.view.report_flips import flip_section
from evalkit.view.report_tables import tasks_table
from tests.view import charted
from tests.view.comparisons import FP16, INT4, INT8

FULL = charted.full()
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}'
VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a document; complains where elements do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def attribute(self, name: str) -> list[str]:
        return [found for _, attrs in self.tags if (found := attrs.get(name)) is not None]


def flips(comparison: Comparison, count: int, **changes: object) -> list[Flip]:
    """Flips of all variants and tasks in turn."""
    variants = [row.variant.label for row in comparison.rows[1:]]
    tasks = [task.name for task in comparison.suite.tasks]
    made = []
    for number in range(count):
        place = number // 2
        flip = Flip(
            task=tasks[place % len(tasks)],
            item=number,
            variant=variants[place // len(tasks) % len(variants)],
            direction=("right→wrong", "wrong→right")[number % 2],
            prompt=f"Question {number}: where is the baker?\nAnswer:",
            choices=("in the mill", "by the river"),
            target="by the river",
            baseline_loglikelihoods=(-12.5, -11.25),
            variant_loglikelihoods=(-10.0, -11.0),
            baseline_margin=1.25,
            variant_margin=-1.0,
        )
        made.append(dataclasses.replace(flip, **changes))
    return made


REPORT = render_html(
    FULL,
    charted.raw_values(FULL),
    flips(FULL, 40),
    definitions=[("perplexity", "", "exp of the mean"), ("unheard_of", "s", "not measured here")],
    command="evalkit compare fp16 int8 int4 --model demo",
)
PAGE = Page(REPORT)


def test_the_verdict_comes_first():
    assert PAGE.texts["h1"] == [FULL.sentence]
    body = REPORT[REPORT.index("<main") :]
    sections = ("table", "charts", "tasks", "flips", "numbers", "environment", "methods")
    order = [body.index(f'<section id="{name}"') for name in sections]
    assert order == sorted(order)


def test_nothing_is_fetched_and_only_its_own_script_may_run():
    addresses = set(re.findall(r"https?://[^\"' )<]+", REPORT))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not PAGE.all("link") and not PAGE.all("img") and not PAGE.attribute("src")
    assert all(target.startswith("#") for target in PAGE.attribute("href"))
    script = REPORT[REPORT.index("<script>") + len("<script>") : REPORT.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = PAGE.all("meta")[3]["content"]
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in policy


def test_there_are_no_inline_event_handlers():
    assert not [name for _, attrs in PAGE.tags for name in attrs if name.startswith("on")]


def test_everything_from_models_and_data_is_escaped():
    evil = Variant("checkpoint", "checkpoint", checkpoint=EVIL)
    base = charted.full((FP16, evil))
    row = dataclasses.replace(
        base.rows[1], kernel=EVIL, notes=(EVIL,),
        verdict=Verdict(EVIL, metric=EVIL, evidence=(EVIL,)),
        metrics={**base.rows[1].metrics, f"{EVIL}.acc": base.rows[1].metrics["tasks_mean"]},
        slices={EVIL: base.rows[1].metrics, "b": base.rows[1].metrics},
    )  # fmt: skip
    failed = Row(INT4, "failed", EVIL)
    comparison = dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, name=EVIL),
        suite=dataclasses.replace(base.suite, name=EVIL),
        environment=dataclasses.replace(base.environment, machine=EVIL, packages={EVIL: EVIL}),
        rows=(base.rows[0], row, failed),
        sentence=EVIL,
        notes=(EVIL,),
        store=EVIL,
    )
    found = flips(
        comparison, 4, task=EVIL, variant=EVIL, prompt=EVIL, choices=(EVIL, "b"), target=EVIL
    )
    definitions = [("perplexity", EVIL, EVIL)]
    html = render_html(comparison, {}, found, definitions=definitions, command=EVIL)
    page = Page(html)
    assert len(page.all("script")) == 1 and not page.all("img")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert page.texts["h1"] == [EVIL] and "49" not in page.texts["h1"][0]
    assert html.count("<script>") == 1


def test_characters_that_disguise_are_taken_out():
    comparison = dataclasses.replace(FULL, sentence="Use \u202eint8\x1b[31m\x00 now")
    found = flips(FULL, 1, prompt="a\u202eb\x07\nc")
    html = render_html(comparison, {}, found)
    assert "Use int8 now" in html and "ab\nc" in html
    assert not re.search("[\u202e\x00\x07\x1b]", html)


def test_landmarks_headings_and_tables_are_marked_up():
    assert [len(PAGE.all(tag)) for tag in ("header", "main", "footer", "h1")] == [1, 1, 1, 1]
    assert PAGE.all("html")[0]["lang"] == "en" and PAGE.all("nav")[0]["aria-label"]
    assert len(PAGE.all("table")) == len(PAGE.all("caption")) == 5
    assert all(cell.get("scope") for cell in PAGE.all("th"))
    named = PAGE.attribute("id")
    assert set(PAGE.attribute("aria-labelledby")) <= set(named)
    regions = [attrs for _, attrs in PAGE.tags if attrs.get("role") == "region"]
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions)
    labels = [region["aria-label"] for region in regions]
    assert len(labels) == len(set(labels))


def test_ids_are_unique_and_every_reference_has_its_target():
    named = PAGE.attribute("id")
    assert [name for name, count in Counter(named).items() if count > 1] == []
    referred = set(re.findall(r"url\(#([^)]+)\)", REPORT))
    referred |= {target[1:] for target in re.findall(r'href="(#[^"]+)"', REPORT)}
    assert referred <= set(named)


def test_charts_are_inline_in_the_theme_s_colours_with_words_for_readers():
    charts = PAGE.all("svg")
    assert len(charts) == 10
    assert all(chart["role"] == "img" and chart["aria-label"].endswith(".") for chart in charts)
    svg = REPORT[REPORT.index("<svg") : REPORT.rindex("</svg>")]
    assert "var(--ink)" in svg and "var(--paper)" in svg
    assert not re.search("#1f2329|#fffffe|#d8dee5|#656d77", svg, re.IGNORECASE)
    assert "prefers-color-scheme: dark" in REPORT and "@media print" in REPORT


def test_shortening_an_svg_leaves_its_words_alone():
    p = FULL.rows[1].metrics["demo_price.flips"].details["mcnemar_p"]
    assert f"p = {p:.2g}" in REPORT and len(f"{p:.2g}") > 4


def test_charts_without_values_are_one_line_each():
    page = Page(render_html(charted.with_rows(FULL, FULL.rows[0])))
    missing = [text for text in page.texts["li"] if "not measured: " in text]
    assert [text.partition(":")[0] for text in missing if "; " in text] == [
        "tradeoff", "tradeoff memory", "divergence bytes", "flips", "divergence", "position",
        "slices", "latency",
    ]  # fmt: skip
    assert len(page.all("svg")) == 2


def test_a_failed_variant_and_no_variant_at_all_are_reported():
    page = Page(render_html(charted.failed(FULL, 1)))
    assert "out of memory: needs 9 GB" in page.texts["td"]
    nothing = Page(render_html(charted.failed(FULL, 0, 1, 2)))
    assert not nothing.all("svg") and "Tasks" not in nothing.texts["h2"]


def test_tasks_show_score_difference_flips_and_verdict():
    value = FULL.rows[2].metrics["demo_where.acc"]
    details = FULL.rows[2].metrics["demo_where.flips"].details
    assert f"{100 * value.value:.1f} %" in PAGE.texts["td"]
    said = f"{details['right_to_wrong']} lost, {details['wrong_to_right']} won"
    assert any(text.endswith(said) and "[" in text for text in PAGE.texts["small"])
    assert "inconclusive" in PAGE.texts["small"]


def test_what_changed_a_score_stands_below_the_name_of_its_task():
    def noted(row):
        value = row.metrics["demo_where.acc"]
        details = {**value.details, "notes": ["2 items left out"]}
        changed = dataclasses.replace(value, details=details)
        return dataclasses.replace(row, metrics={**row.metrics, "demo_where.acc": changed})

    rows = tuple(noted(row) for row in FULL.rows)
    lines = tasks_table(dataclasses.replace(FULL, rows=rows)).lines
    assert [line.notes for line in lines if line.task == "demo_where"] == [("2 items left out",)]
    assert {line.notes for line in lines if line.task != "demo_where"} == {()}


def test_all_numbers_are_listed_with_interval_size_and_verdict():
    expected = sum(len(row.metrics) for row in FULL.rows)
    assert f"{expected} values with interval, sample size and verdict" in REPORT
    assert "9.6 MB" in PAGE.texts["td"] and "60,312" in PAGE.texts["td"]


def test_environment_command_and_definitions():
    assert PAGE.texts["code"] == ["evalkit compare fp16 int8 int4 --model demo"]
    assert FULL.environment.machine in PAGE.texts["dd"]
    assert "exp of the mean" in PAGE.texts["dd"] and "unheard_of" not in REPORT
    bare = Page(render_html(dataclasses.replace(FULL, environment=None)))
    assert "Not recorded: no run finished." in bare.texts["p"] and not bare.all("pre")


def test_flips_have_answers_likelihoods_and_filters():
    rows = [attrs for tag, attrs in PAGE.tags if tag == "tr" and "data-task" in attrs]
    assert len(rows) == 40
    assert {row["data-variant"] for row in rows} == {"0", "1"}
    options = PAGE.texts["option"]
    assert options.count("all") == 3 and "int4 GPTQ g128" in options and "wrong→right" in options
    assert "−11.25 → −11.00 (right)" in PAGE.texts["small"]
    assert "margin 1.25 → −1.00 nats" in PAGE.texts["small"]
    assert "listed" not in REPORT[REPORT.index('<section id="flips"') :]


def test_flips_of_generated_answers_and_within_the_noise():
    found = flips(
        FULL, 1, choices=(), target="42", baseline_answer="42", variant_answer="41",
        baseline_margin=None, variant_margin=None,
    )  # fmt: skip
    coin = flips(FULL, 1, is_coin_flip=True)
    page = Page(render_html(FULL, {}, [*found, *coin]))
    assert [text for text in page.texts["li"] if text in ("41", "42")] == ["42", "42", "41"]
    assert {"baseline", "variant", "within the noise"} <= set(page.texts["small"])


def test_without_flips_there_is_no_section():
    assert 'id="flips"' not in render_html(FULL)


def test_many_flips_are_cut_evenly_and_the_report_says_so():
    comparison = charted.full((FP16, INT8, INT4), tasks=3)
    few = flips(comparison, 6, task="rare", variant="int4")
    section = flip_section(comparison, [*flips(comparison, 20_000), *few])
    assert section is not None and section.total == 20_006 and len(section.shown) == 1200
    counts = Counter((flip.task, flip.variant, flip.direction) for flip in section.shown)
    assert len(counts) == 14 and sorted(counts.values())[:2] == [3, 3]
    assert max(counts.values()) - sorted(counts.values())[2] <= 1


@pytest.mark.parametrize("text", ["word " * 500, "日本語" * 500])
def test_long_flips_are_cut_to_a_size(text: str):
    long = flips(FULL, 3000, prompt=text, choices=(text,) * 12, target=text)
    section = flip_section(FULL, long)
    assert section is not None
    words = [
        flip.prompt + "".join(choice.text for choice in flip.choices) for flip in section.shown
    ]
    counts = Counter((flip.task, flip.variant, flip.direction) for flip in section.shown)
    assert len(counts) == 16 and max(counts.values()) - min(counts.values()) <= 1
    assert len(words) > 400 and sum(len(word.encode()) for word in words) < 2_000_000


def test_the_report_of_many_variants_tasks_and_flips_stays_below_five_megabytes():
    comparison = charted.many(12, tasks=20, items=10_000)
    text = "&<>\"'" * 500
    found = flips(comparison, 3000, prompt=text, choices=(text,) * 12, target=text)
    html = render_html(comparison, charted.raw_values(comparison), found)
    listed = html.count("<tr data-task=")
    assert f"Of 3,000 flips {listed:,} are listed" in html and listed > 100
    assert len(html.encode()) < 5_000_000
