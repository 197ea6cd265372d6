"""Which tasks generate text: single ones, groups, the demo's, lm-eval's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from task_helpers import own_tasks

from evalkit.errors import DataError
from evalkit.records import TaskSlice
from evalkit.tasks import lm_eval_index
from evalkit.tasks.kinds import generating_tasks

pytestmark = pytest.mark.usefixtures("registry_home")

GROUPS = {
    "mixed": "group: mixed\ntask: [choices, sums]\n",
    "quiet": "group: quiet\ntask: [choices, pages]\n",
    "nested": "group: nested\ntask: [pages, {group: inner, task: [mixed]}]\n",
    "coded": "task: coded\nclass: !function code.Task\n",
    "broken": "task: broken\ninclude: nowhere.yaml\n",
}


def asked(*names: str, **settings: Any) -> dict[str, bool]:
    return generating_tasks([TaskSlice(name) for name in names], **settings)


def test_own_tasks_and_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("a task was built")

    monkeypatch.setattr(lm_eval_index, "build_task", refused)
    folder = own_tasks(tmp_path)
    for name, text in GROUPS.items():
        (folder / f"{name}.yaml").write_text(text)
    found = asked(
        "choices", "sums", "pages", "mixed", "quiet", "nested", "coded",
        str(folder / "sums.yaml"), include_path=[folder],
    )  # fmt: skip
    assert found == {
        "choices": False, "sums": True, "pages": False, "mixed": True, "quiet": False,
        "nested": True, "coded": True, str(folder / "sums.yaml"): True,
    }  # fmt: skip


def test_what_is_no_task_or_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    folder = own_tasks(tmp_path)
    (folder / "broken.yaml").write_text(GROUPS["broken"])
    with pytest.raises(DataError, match=r"unknown task 'choises' .*did you mean 'choices'"):
        asked("sums", "choises", include_path=[folder])
    with pytest.raises(DataError, match=r"nowhere\.yaml"):
        asked("broken", include_path=[folder])


def test_the_demos_and_lm_evals() -> None:
    names = ["demo_grammar", "arc_easy", "gsm8k", "mmlu", "lambada_openai", "wikitext"]
    assert [name for name, generates in asked(*names).items() if generates] == ["gsm8k"]
