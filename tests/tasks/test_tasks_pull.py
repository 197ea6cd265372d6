"""`data pull` keeps a task's splits with a manifest, and `--data` serves them again."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from task_helpers import CHOICE_YAML, choice_rows, write_jsonl

from evalkit.errors import DataError, UsageError
from evalkit.records import TaskSlice
from evalkit.tasks.loading import load_tasks
from evalkit.tasks.manifest import read_manifest
from evalkit.tasks.pull import pull_tasks

pytestmark = pytest.mark.usefixtures("registry_home")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local dataset folder in the place of a hub dataset, and a task that reads it."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "hub"
    write_jsonl(folder / "train.jsonl", choice_rows(6, start=20))
    write_jsonl(folder / "test.jsonl", choice_rows(5))
    write_jsonl(folder / "validation.jsonl", choice_rows(4, start=40))
    text = CHOICE_YAML.format(name="remote").replace("some/where", str(folder))
    text = text.replace("validation_split: validation\n", "")
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml/remote.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_pulled_task_is_served_without_the_source(source: Path) -> None:
    pulled = pull_tasks(["remote"], source / "data", include_path=[source / "yaml"])
    assert pulled.failures == ()
    (manifest,) = pulled.manifests
    assert (manifest.task, manifest.source) == ("remote", str(source / "hub"))
    assert manifest.revision == "local"
    assert [(s.split, s.file, s.rows) for s in manifest.splits] == [
        ("train", "train.jsonl", 6),
        ("test", "test.jsonl", 5),
    ]
    assert read_manifest(pulled.folders[0]) == manifest
    (source / "hub").rename(source / "gone")
    loaded = load_tasks(
        [TaskSlice("remote", 2)],
        data=source / "data",
        include_path=[source / "yaml"],
        offline=True,
    )
    assert loaded.failures == ()
    assert loaded.tasks[0].documents == choice_rows(5)


def test_parquet_and_pulling_again(source: Path) -> None:
    arguments = {"include_path": [source / "yaml"]}
    pull_tasks(["remote"], source / "data", **arguments)
    pulled = pull_tasks(["remote"], source / "data", file_format="parquet", **arguments)
    folder = pulled.folders[0]
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "test.parquet",
        "train.parquet",
    ]
    assert pq.read_table(folder / "test.parquet").to_pylist() == choice_rows(5)
    assert [path.name for path in folder.parent.iterdir()] == ["remote"]


def test_hub_datasets_are_pinned_to_a_commit(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    asked = {}

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> object:
            return type("Info", (), {"sha": "abc123"})

    def load_dataset(path: str, name: str | None = None, **settings: object) -> object:
        asked.update(settings, path=path)
        rows = datasets.Dataset.from_list(choice_rows(3))
        return datasets.DatasetDict({"train": rows, "test": rows})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    text = CHOICE_YAML.format(name="hub").replace("validation_split: validation\n", "")
    (source / "yaml/hub.yaml").write_text(text, encoding="utf-8")
    pulled = pull_tasks(["hub"], source / "data", include_path=[source / "yaml"])
    assert pulled.failures == ()
    assert asked == {"revision": "abc123", "path": "some/where"}
    assert pulled.manifests[0].revision == "abc123"


def test_failures_are_collected_and_leave_nothing(source: Path) -> None:
    (source / "yaml/bytes.py").write_text(
        "import datasets\n"
        "def make(**_):\n"
        "    row = {'question': 'q', 'options': ['a', 'b'], 'answer': 0, 'raw': b'\\x00'}\n"
        "    return {'test': datasets.Dataset.from_list([row])}\n",
        encoding="utf-8",
    )
    text = CHOICE_YAML.format(name="raw").replace("training_split: train\n", "")
    text = text.replace("dataset_path: some/where\n", "").replace(
        "validation_split: validation\n", "custom_dataset: !function bytes.make\n"
    )
    (source / "yaml/raw.yaml").write_text(text, encoding="utf-8")
    include = [source / "yaml"]
    refused = pull_tasks(["raw"], source / "data", include_path=include)
    assert "would run code: !function bytes.make" in refused.failures[0].message
    pulled = pull_tasks(
        ["unheard_of", "raw", "remote"], source / "data", include_path=include, allow_code=True
    )
    assert [manifest.task for manifest in pulled.manifests] == ["remote"]
    messages = {failure.name: failure.message for failure in pulled.failures}
    assert "unknown task 'unheard_of'" in messages["unheard_of"]
    assert "pull it with --format parquet" in messages["raw"]
    assert [path.name for path in (source / "data/tasks").iterdir()] == ["remote"]
    again = pull_tasks(
        ["raw"], source / "data", include_path=include, file_format="parquet", allow_code=True
    )
    assert again.failures == ()
    with pytest.raises(UsageError, match="allowed are jsonl, parquet"):
        pull_tasks(["raw"], source, file_format="csv")  # type: ignore[arg-type]


def test_changed_missing_and_damaged_files_are_named(source: Path) -> None:
    folder = pull_tasks(["remote"], source / "data", include_path=[source / "yaml"]).folders[0]
    write_jsonl(folder / "test.jsonl", choice_rows(4))
    with pytest.raises(DataError, match=r"test.jsonl has SHA-256 .*data pull remote --out"):
        read_manifest(folder)
    loaded = load_tasks([TaskSlice("remote")], data=source / "data", include_path=[source / "yaml"])
    assert "its manifest says" in loaded.failures[0].message
    (folder / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"test.jsonl is missing: run `evalkit data pull remote"):
        read_manifest(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["splits"][0].pop("sha256")
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DataError, match="is damaged"):
        read_manifest(folder)
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is not JSON"):
        read_manifest(folder)
    (folder / "manifest.json").write_text('{"schema": "other"}', encoding="utf-8")
    with pytest.raises(DataError, match="is no manifest of the schema"):
        read_manifest(folder)
