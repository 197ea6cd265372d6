"""What the command line says of wrong words: the command's own help, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.api import opening
from evalkit.cli import main
from evalkit.errors import UsageError
from evalkit.running.bench.plan import _further
from evalkit.view import render
from evalkit.view.charts import draw
from evalkit.view.charts.canvas import write
from tests.view import charted
from tests.view.plans import planned


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "fp16", "--limit", "x"], "(see evalkit compare --help)"),
        (["bench"], "Missing argument 'VARIANT…' (see evalkit bench --help)"),
        (["data", "nothing"], "(see evalkit data --help)"),
        (["nothing"], "(see evalkit --help)"),
    ],
)
def test_wrong_words_name_the_help_of_their_own_command(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_stored_result_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "comparisons").mkdir()
    with pytest.raises(UsageError, match="none begins so"):
        opening.load_comparison("nope", tmp_path)


def test_a_chart_of_another_form_is_wrong_usage_and_names_no_option(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"x\.gif: a chart is written as .svg, .png or .pdf"
    ) as said:
        write(draw("tasks", charted.full()), tmp_path / "x.gif")
    assert "--" not in str(said.value)


def test_a_context_that_is_the_prompt_is_measured_once() -> None:
    assert _further((64, 128, 64, 128), 64) == (128,)
    assert _further((), 64) == ()


def test_a_long_name_of_a_plan_is_whole_in_a_narrow_terminal() -> None:
    text = render(planned(), "table", 60)
    assert "…" not in text.split("not shown")[0]
