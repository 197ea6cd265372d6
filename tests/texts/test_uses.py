"""Nothing is judged on text that it was made with, whatever that text is called."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from evalkit.errors import DataError
from evalkit.running.calibration import check_disjoint
from evalkit.texts.documents import Text, load_text
from evalkit.texts.uses import Purpose, TextUses, Use


def text_of(*documents: str, name: str = "text") -> Text:
    return Text(name, documents, sha256=str(hash(documents)))


def use(purpose: Purpose, *documents: str, name: str = "text") -> Use:
    return Use(purpose, name, text_of(*documents, name=name))


LONG = [tiny.text(seed, 20) for seed in range(6)]


def test_three_parts_of_which_none_holds_another() -> None:
    uses = TextUses(
        use("calibration", *LONG[:2]),
        Use("calibration", "self", seed=0),
        use("sensitivity", *LONG[2:4]),
        use("evaluation", *LONG[4:]),
    )
    assert uses.names("calibration") == ("text", "self")
    # One purpose may use a text twice.
    uses.add(use("evaluation", *LONG[4:], name="again"))
    assert uses.names("evaluation") == ("text", "again")


def test_the_same_text_under_another_name_is_refused(tmp_path: Path) -> None:
    for name in ("one.txt", "other.md"):
        (tmp_path / name).write_text("three words only", encoding="utf-8")
    one, other = (load_text(str(tmp_path / name)) for name in ("one.txt", "other.md"))
    with pytest.raises(DataError) as caught:
        TextUses(Use("sensitivity", "one.txt", one), Use("evaluation", "other.md", other))
    assert str(caught.value) == (
        "sensitivity and evaluation text overlap (one.txt and other.md): they are the same text;"
        " give another text"
    )


@pytest.mark.parametrize(
    ("mine", "theirs", "message"),
    [
        (["a b", "c d", "e f"], ["e f ", "x"], "1 documents are the same, for example 'e f'"),
        (LONG[:1], [f"before {LONG[0]} after"], "shared 13-grams, for example"),
    ],
)
def test_shared_documents_and_passages_are_refused(
    mine: list[str], theirs: list[str], message: str
) -> None:
    for one, other in ((mine, theirs), (theirs, mine)):
        with pytest.raises(DataError, match=message) as caught:
            TextUses(use("calibration", *one), use("evaluation", *other))
        assert "\n" not in str(caught.value)


def test_a_heading_that_many_texts_have_is_no_overlap() -> None:
    pages = [[f"page {side} {number}" for number in range(30)] for side in "ab"]
    TextUses(use("calibration", "= Plot =", *pages[0]), use("evaluation", "= Plot =", *pages[1]))


def test_one_seed_of_a_models_own_text_serves_one_purpose() -> None:
    uses = TextUses(Use("calibration", "self", seed=3))
    uses.add(Use("sensitivity", "self", seed=4))
    with pytest.raises(DataError, match="the model writes both with seed 3; draw with another"):
        uses.add(Use("evaluation", "self", seed=3), "draw with another")
    uses.add(use("evaluation", *LONG[:1]))


def test_compare_says_how_to_allow_it() -> None:
    with pytest.raises(DataError) as caught:
        check_disjoint("x/c4.txt", text_of(LONG[0]), [text_of(LONG[0], LONG[1], name="wiki")])
    for part in ("(c4.txt and wiki)", "1 documents are the same", "--allow-overlap"):
        assert part in str(caught.value)
    check_disjoint("c4.txt", text_of(LONG[0]), [text_of(LONG[1])])
