"""The docs name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from evalkit.analysis.units import FEWEST_UNITS, UNIT_TOKENS
from evalkit.records import Claim, Word
from evalkit.texts.files import COMPRESSIONS
from evalkit.texts.formats import FORMATS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`(evalkit/[\w/.]+?)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_way_of_compare_is_told_from_the_first_file_to_the_last() -> None:
    text = (ROOT / "docs" / "what-happens.md").read_text(encoding="utf-8")
    named = re.findall(r"^\d+\. `(evalkit/[\w/.]+)`", text, re.MULTILINE)
    assert len(named) == 20
    assert named[0] == "evalkit/cli/comparing.py"
    assert named[-1] == "evalkit/view/comparison.py"


def test_the_formats_of_texts_are_those_of_the_loader() -> None:
    text = (ROOT / "docs" / "texts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w ]+) \| (`.+?) \| (.+?) \| [^|]+ \|$", text, re.MULTILINE)
    listed = [(name, re.findall(r"`(\.\w+)`", endings), what) for name, endings, what in rows]
    assert listed == [(one.name, list(one.endings), one.document) for one in FORMATS]
    assert all(f"`{ending}`" in text for ending in COMPRESSIONS)
    assert f"fewer than {FEWEST_UNITS} units of about {UNIT_TOKENS} tokens" in text


def test_the_page_of_verdicts_names_every_word_and_claim_and_shows_the_rule_s_own_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (ROOT / "docs" / "verdict.md").read_text(encoding="utf-8")
    assert all(f"| {claim} |" in text for claim in Claim)
    words = ("better", "no loss", "worse", "inconclusive", "not comparable", "changed")
    assert all(word in text.casefold() and word in list(Word) for word in words)
    assert f"{FEWEST_UNITS} units" in text
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import draw_verdicts

    assert draw_verdicts.FILE.read_text(encoding="utf-8") == draw_verdicts.picture()


def test_every_page_is_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        """mkdocs.yml without its tags of Python."""

    Loader.add_multi_constructor("", lambda *_: None)
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]
    listed = set(re.findall(r"[\w/-]+\.md", str(nav)))
    assert {page.relative_to(ROOT / "docs").as_posix() for page in PAGES} == listed
