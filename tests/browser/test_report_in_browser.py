"""The HTML report as a person meets it: opened in Chromium, filtered, read by axe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from browser.conftest import Watched
from view.charted import full, raw_values

from evalkit.records import Comparison, Flip
from evalkit.view.report import render_html

HOSTILE = "<script>document.title='stolen'</script><img src=http://example.org/x onerror=alert(1)>"


def flips(comparison: Comparison) -> list[Flip]:
    task = next(n for n in comparison.rows[1].metrics if n.endswith(".flips")).removesuffix(
        ".flips"
    )
    first = Flip(
        task=task,
        item=3,
        variant=comparison.rows[1].variant.label,
        direction="right→wrong",
        prompt=f"Where is the lamp? {HOSTILE}",
        choices=("barn", HOSTILE),
        target="barn",
        baseline_loglikelihoods=(-1.0, -2.0),
        variant_loglikelihoods=(-2.0, -1.0),
        baseline_margin=1.0,
        variant_margin=-1.0,
    )
    second = dataclasses.replace(
        first, item=4, prompt="Who owns the spoon?", direction="wrong→right"
    )
    return [first, second]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    comparison = full()
    page = render_html(
        comparison,
        raw_values(comparison),
        flips(comparison),
        definitions=[("perplexity", "perplexity", "exp(mean nll)")],
        command="evalkit compare fp16 int8 int4",
    )
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(page, encoding="utf-8")
    return file


def test_it_opens_without_an_error_or_a_request(
    report: Path, watched: Watched, screenshots: Path
) -> None:
    page = watched.page
    page.goto(report.as_uri())
    assert page.title().endswith("what quantization costs and buys")
    assert page.locator("figure svg").count() >= 5
    page.screenshot(path=screenshots / "report-light.png", full_page=True)
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=screenshots / "report-dark.png")
    page.emulate_media(media="print", color_scheme="light")
    page.screenshot(path=screenshots / "report-print.png", full_page=True)
    assert watched.errors == []
    assert watched.left == []


def test_the_filter_narrows_and_resets(report: Path, watched: Watched) -> None:
    page = watched.page
    page.goto(report.as_uri())
    shown = page.locator("#flip-rows > tr:visible")
    assert shown.count() == 2
    page.get_by_label("Search").fill("spoon")
    assert shown.count() == 1
    assert page.locator("#flip-status").inner_text() == "1 of 2 shown"
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.getElementById('flip-status').textContent[0] === '2'")
    page.locator("select[name=direction]").select_option(label="right→wrong")
    assert shown.count() == 1
    assert watched.errors == []


def test_it_is_used_with_the_keyboard(report: Path, watched: Watched) -> None:
    page = watched.page
    page.goto(report.as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("width", [360, 768, 1024, 1190, 1300, 1440])
def test_the_table_is_whole_and_the_verdict_in_sight_at_every_width(
    report: Path, watched: Watched, screenshots: Path, width: int
) -> None:
    page = watched.page
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    table = page.locator("#table .scroll").first
    assert table.evaluate("box => box.scrollWidth - box.clientWidth") <= 0
    verdicts = table.locator("tbody td:last-child").all()
    boxes = [verdict.bounding_box() for verdict in verdicts if verdict.inner_text()]
    assert len(boxes) >= 3
    assert all(box is not None and box["x"] + box["width"] <= width for box in boxes)
    page.screenshot(path=screenshots / f"report-{width}.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(report: Path, watched: Watched, scheme: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = watched.page
    page.emulate_media(color_scheme=scheme)
    page.goto(report.as_uri())
    found = axe.Axe().run(page).response["violations"]
    serious = [
        (v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")
    ]
    assert serious == []
