"""The page of answers as a person meets it: filtered, searched, by keyboard, dark, on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser.conftest import Watched
from view.answered import HOSTILE, RIGHT_TO_LEFT, hostile, many

from evalkit.view import render


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("answers") / "answers.html"
    file.write_text(render(hostile(), "html"), encoding="utf-8")
    return file


def test_what_models_write_is_text(page_file: Path, watched: Watched, screenshots: Path) -> None:
    page = watched.page
    page.goto(page_file.as_uri())
    assert page.title() == "demo: what the variants say"
    assert page.locator("article").count() == 4
    assert HOSTILE in page.locator("article").first.inner_text()
    assert page.locator("article img").count() == 0
    text = page.locator("article").nth(2).locator(".asked div").last
    assert text.inner_text() == RIGHT_TO_LEFT
    assert text.evaluate("node => getComputedStyle(node).direction") == "rtl"
    fork = page.locator("article").nth(1).locator(".answer").last
    assert fork.locator(".fork").count() == 1
    assert fork.locator(".after").inner_text() == "Lyon."
    page.screenshot(path=screenshots / "answers-light.png", full_page=True)
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=screenshots / "answers-dark.png")
    assert watched.errors == []
    assert watched.left == []


def test_filters_search_and_order(page_file: Path, watched: Watched) -> None:
    page = watched.page
    page.goto(page_file.as_uri())
    status = page.locator("#status")
    heads = page.locator("article h3")
    page.select_option("select[name=show]", "flipped")
    assert status.inner_text() == "1 of 4 prompts"
    page.select_option("select[name=show]", "looped")
    assert heads.all_inner_texts() == ["Prompt 4"]
    page.select_option("select[name=show]", "differs")
    assert heads.all_inner_texts() == ["Prompt 1", "Prompt 2", "Prompt 4"]
    page.select_option("select[name=order]", "telling")
    assert heads.first.inner_text() == "Prompt 2"
    page.select_option("select[name=variant]", label="int8")
    assert status.inner_text() == "0 of 4 prompts"
    page.get_by_role("button", name="Show all").click()
    page.locator("article").nth(3).wait_for()
    page.fill("input[name=words]", "lyon capital")
    assert heads.all_inner_texts() == ["Prompt 2"]
    assert watched.errors == []


def test_the_keyboard_alone(page_file: Path, watched: Watched) -> None:
    page = watched.page
    page.goto(page_file.as_uri())
    for _ in range(3):
        page.keyboard.press("j")
    page.keyboard.press("k")
    focused = "document.activeElement.querySelector('h3').textContent"
    assert page.evaluate(focused) == "Prompt 2"
    page.keyboard.press("f")
    assert page.locator("#status").inner_text() == "1 of 4 prompts"
    page.keyboard.press("a")
    page.keyboard.press("/")
    page.keyboard.type("jjj")
    assert page.locator("#status").inner_text() == "0 of 4 prompts"
    assert watched.errors == []


def test_on_a_phone_nothing_is_cut_off(
    page_file: Path, watched: Watched, screenshots: Path
) -> None:
    page = watched.page
    page.set_viewport_size({"width": 375, "height": 667})
    page.goto(page_file.as_uri())
    page.screenshot(path=screenshots / "answers-phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(page_file: Path, watched: Watched, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = watched.page
    page.emulate_media(color_scheme=scheme)
    page.goto(page_file.as_uri())
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.slow
def test_5000_prompts_and_4_variants_open_at_once(tmp_path: Path, watched: Watched) -> None:
    file = tmp_path / "many.html"
    file.write_text(render(many(5000, 4), "html"), encoding="utf-8")
    assert file.stat().st_size < 20e6
    page = watched.page
    page.goto(file.as_uri())
    assert page.locator("#status").inner_text() == "5000 of 5000 prompts"
    assert page.locator("article").count() <= 100
    page.locator("#end").scroll_into_view_if_needed()
    page.locator("article").nth(40).wait_for()
    assert watched.errors == []
