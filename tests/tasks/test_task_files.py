"""The hash of the files behind a task's name, and the key of stored prompts."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from task_helpers import own_data, own_tasks

from evalkit.models.identity import Identity
from evalkit.records import TaskSlice
from evalkit.running.compare import tasks as compare_tasks
from evalkit.tasks.files import task_files_hash
from evalkit.tasks.loading import load_tasks

YAML = """\
include: base.yaml
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
process_results: !function judge.judge
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.yaml").write_text(YAML)
    (folder / "base.yaml").write_text("output_type: multiple_choice\ninclude: mine.yaml\n")
    (folder / "rows.jsonl").write_text('{"q": 1}\n')
    (folder / "judge.py").write_text("judge = None\n")
    (folder / "other.py").write_text("other = None\n")
    return folder


@pytest.mark.parametrize("name", ["mine.yaml", "base.yaml", "rows.jsonl", "judge.py"])
def test_what_a_yaml_names_counts_with_it(folder: Path, name: str) -> None:
    task = str(folder / "mine.yaml")
    before = task_files_hash(task, None, None)
    (folder / "other.py").write_text("other = 1\n")
    assert task_files_hash(task, None, None) == before
    (folder / name).write_text((folder / name).read_text() + "# more\n")
    assert task_files_hash(task, None, None) != before


def test_the_same_files_elsewhere_are_the_same(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "a" / "copy")
    there = tmp_path / "a/copy/mine.yaml"
    assert task_files_hash(str(there), None, None) == task_files_hash(
        str(folder / "mine.yaml"), None, None
    )


def test_data_named_after_the_hub_dataset_counts(tmp_path: Path) -> None:
    """A folder whose name is not like the task's may serve it all the same."""
    for name in ("ai2_arc", "piqa"):
        (tmp_path / "tasks" / name).mkdir(parents=True)
        (tmp_path / "tasks" / name / "test.jsonl").write_text("1")
    before = {name: task_files_hash(name, tmp_path, None) for name in ("arc_easy", "piqa")}
    (tmp_path / "tasks/ai2_arc/test.jsonl").write_text("2")
    assert task_files_hash("arc_easy", tmp_path, None) != before["arc_easy"]
    assert task_files_hash("piqa", tmp_path, None) == before["piqa"]


@pytest.mark.usefixtures("registry_home")
def test_the_key_of_stored_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_tasks(tmp_path / "yaml")
    own_data(tmp_path / "data")

    def key(seed: int = 0, template: str = "c", **settings: Any) -> str:
        chosen = TaskSlice("choices", **settings)
        (task,) = load_tasks(
            [chosen], data=tmp_path / "data", include_path=[tmp_path / "yaml"], seed=seed
        ).tasks
        identity = Identity("weights", chat_template=template)
        job: Any = SimpleNamespace(seed=seed, checkpoint=SimpleNamespace(identity=identity))
        return compare_tasks._prompts_key(job, chosen, task)

    first = key()
    assert key() == first == key(template="other")
    assert key(chat=True) != key(chat=True, template="other")
    assert len({first, key(seed=1), key(shots=2), key(limit=3), key(system="Be brief.")}) == 5
    with (tmp_path / "data/tasks/choices/test.jsonl").open("a") as file:
        file.write('{"question": "more?", "options": ["a", "b"], "answer": 0}\n')
    assert key() != first
    before = key()
    monkeypatch.setattr(compare_tasks, "lm_eval_version", lambda: "0.0.1")
    assert key() != before
