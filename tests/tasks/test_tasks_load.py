"""Loading tasks by name: own YAML folders, groups, data folders, and what goes wrong."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from task_helpers import CHOICE_YAML, choice_rows, own_data, own_tasks, write_jsonl

from evalkit.errors import DataError
from evalkit.records import TaskSlice
from evalkit.tasks.loading import LoadedTask, LoadedTasks, load_tasks

pytestmark = pytest.mark.usefixtures("registry_home")


def load(tmp_path: Path, *names: str, shots: int | None = None, **settings: object) -> LoadedTasks:
    return load_tasks(
        [TaskSlice(name, shots) for name in names],
        data=tmp_path / "data",
        include_path=[tmp_path / "yaml"],
        offline=True,
        **settings,  # type: ignore[arg-type]
    )


def only(loaded: LoadedTasks) -> LoadedTask:
    assert loaded.failures == ()
    (task,) = loaded.tasks
    return task


@pytest.fixture
def files(tmp_path: Path) -> Path:
    own_tasks(tmp_path / "yaml")
    own_data(tmp_path / "data")
    return tmp_path


def test_splits_of_the_yaml_are_used_and_absent_ones_recorded(files: Path) -> None:
    task = only(load(files, "choices", shots=2))
    assert (task.split, task.shots, task.version) == ("test", 2, "3.0")
    assert [(f.split, f.rows) for f in task.files] == [("test", 12), ("train", 9)]
    assert task.notes == ()
    assert task.documents[3]["question"] == "What is number 3?"


def test_missing_test_split_falls_back_to_validation_and_says_so(files: Path) -> None:
    folder = files / "data/tasks/choices"
    (folder / "test.jsonl").unlink()
    write_jsonl(folder / "validation.jsonl", choice_rows(5, start=50))
    task = only(load(files, "choices"))
    assert task.split == "validation"
    assert task.notes == ("evaluated on the split validation: the split test is not at hand",)
    assert len(task.documents) == 5


def test_split_not_named_in_the_yaml_serves_when_nothing_else_is_there(files: Path) -> None:
    (files / "data/tasks/sums/test.jsonl").rename(files / "data/tasks/sums/dev.jsonl")
    task = only(load(files, "sums"))
    assert task.split == "dev"
    assert "split dev" in task.notes[0]


def test_train_alone_is_never_evaluated_on(files: Path) -> None:
    (files / "data/tasks/choices/test.jsonl").unlink()
    (failure,) = load(files, "choices").failures
    assert "holds train but no split to evaluate on: test.jsonl" in failure.message


def test_parquet_serves_like_jsonl(files: Path) -> None:
    folder = files / "data/tasks/choices"
    (folder / "test.jsonl").unlink()
    pq.write_table(pa.Table.from_pylist(choice_rows(7)), folder / "test.parquet")
    assert only(load(files, "choices")).documents == choice_rows(7)


def test_data_folder_may_be_the_tasks_folder_and_come_from_the_environment(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_DATA", str(files / "data/tasks"))
    loaded = load_tasks([TaskSlice("sums")], include_path=[files / "yaml"])
    assert len(only(loaded).documents) == 6


def test_group_is_served_by_one_file_with_a_subject_column(files: Path) -> None:
    folder = files / "yaml"
    for subject in ("plants", "old_stars"):
        text = CHOICE_YAML.format(name=f"school_{subject}")
        (folder / f"{subject}.yaml").write_text(
            text.replace("dataset_name: null", f"dataset_name: {subject}"), encoding="utf-8"
        )
    (folder / "group.yaml").write_text(
        "group: school\ntask: [school_plants, school_old_stars]\n"
        "aggregate_metric_list:\n  - metric: acc\n    weight_by_size: true\n",
        encoding="utf-8",
    )
    rows = [{**row, "subject": "plants"} for row in choice_rows(3)]
    rows += [{**row, "subject": "Old stars"} for row in choice_rows(4, start=30)]
    write_jsonl(files / "data/tasks/school/test.jsonl", rows)
    loaded = load(files, "school")
    assert loaded.failures == ()
    assert {t.name: len(t.documents) for t in loaded.tasks} == {
        "school_plants": 3,
        "school_old_stars": 4,
    }
    (group,) = loaded.groups
    assert group.tasks == ("school_plants", "school_old_stars")
    assert all(task.asked == "school" for task in loaded.tasks)


def test_group_is_served_by_subfolders(files: Path) -> None:
    text = CHOICE_YAML.format(name="school_plants").replace("null", "plants")
    (files / "yaml/plants.yaml").write_text(text, encoding="utf-8")
    (files / "yaml/group.yaml").write_text(
        "group: school\ntask: [school_plants]\n", encoding="utf-8"
    )
    write_jsonl(files / "data/tasks/school/plants/test.jsonl", choice_rows(3))
    assert len(only(load(files, "school")).documents) == 3


def test_group_without_any_data_is_one_line(files: Path) -> None:
    for name in ("one", "two"):
        text = CHOICE_YAML.format(name=f"void_{name}").replace("where", name)
        (files / f"yaml/void_{name}.yaml").write_text(text, encoding="utf-8")
    (files / "yaml/void.yaml").write_text(
        "group: void\ntask: [void_one, void_two]\n", encoding="utf-8"
    )
    (failure,) = load(files, "void").failures
    assert failure.name == "void"
    assert "none of its 2 tasks can be loaded; void_one: no data for task" in failure.message
    write_jsonl(files / "data/tasks/void_two/test.jsonl", choice_rows(2))
    loaded = load(files, "void")
    assert [task.name for task in loaded.tasks] == ["void_two"]
    assert [failure.name for failure in loaded.failures] == ["void_one"]


def test_without_a_data_folder_the_hub_is_asked(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def load_dataset(path: str, name: str | None = None, **settings: object) -> object:
        if path == "some/sums":
            raise ConnectionError("no route")
        rows = datasets.Dataset.from_list(choice_rows(5))
        return datasets.DatasetDict({"train": rows, "validation": rows, "test": rows})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("evalkit.tasks.loading.hub_answers", lambda: True)
    loaded = load_tasks([TaskSlice("choices", 2), TaskSlice("sums")], include_path=[files / "yaml"])
    (task,) = loaded.tasks
    assert (task.source, task.files, task.notes) == ("some/where", (), ())
    assert task.documents == choice_rows(5)
    message = loaded.failures[0].message
    assert "the hub gives none: no route" in message
    assert "evalkit data pull sums --out DIR" in message


def test_task_on_the_same_hub_dataset_shares_the_folder(files: Path) -> None:
    (files / "yaml/again.yaml").write_text(
        CHOICE_YAML.format(name="choices_again"), encoding="utf-8"
    )
    task = only(load(files, "choices_again"))
    assert task.source.endswith("tasks/choices")


def test_folder_of_another_dataset_is_not_taken(files: Path) -> None:
    text = CHOICE_YAML.format(name="choices_hard").replace("some/where", "some/where_else")
    (files / "yaml/hard.yaml").write_text(text, encoding="utf-8")
    (failure,) = load(files, "choices_hard").failures
    assert failure.name == "choices_hard"
    assert str(files / "data/tasks/choices_hard/test.jsonl") in failure.message
    assert f"evalkit data pull choices_hard --out {files / 'data'}" in failure.message


def test_yaml_file_by_path_and_local_data_beside_it(tmp_path: Path) -> None:
    text = CHOICE_YAML.format(name="beside").replace("some/where", "json")
    text = text.replace("training_split: train\nvalidation_split: validation\n", "")
    text += "dataset_kwargs:\n  data_files:\n    test: mine.jsonl\n"
    path = tmp_path / "deep/beside.yaml"
    write_jsonl(tmp_path / "deep/mine.jsonl", choice_rows(4))
    path.write_text(text, encoding="utf-8")
    task = only(load_tasks([TaskSlice(str(path))], offline=True))
    assert (task.name, len(task.documents)) == ("beside", 4)
    (tmp_path / "deep/mine.jsonl").unlink()
    (failure,) = load_tasks([TaskSlice(str(path))]).failures
    assert "mine.jsonl does not exist" in failure.message


def test_process_docs_and_functions_of_the_yaml_keep_running(files: Path) -> None:
    (files / "yaml/code.py").write_text(
        "def keep(dataset):\n"
        "    return dataset.filter(lambda d: d['answer'] == 1).map(\n"
        "        lambda d: {'question': d['question'].upper()})\n",
        encoding="utf-8",
    )
    text = CHOICE_YAML.format(name="shouted") + "process_docs: !function code.keep\n"
    (files / "yaml/shouted.yaml").write_text(text, encoding="utf-8")
    assert "would run code: !function code.keep" in load(files, "shouted").failures[0].message
    task = only(load(files, "shouted", allow_code=True))
    assert [doc["question"] for doc in task.documents] == [
        f"WHAT IS NUMBER {n}?" for n in (1, 4, 7, 10)
    ]


def test_task_written_as_a_python_class_is_served(files: Path) -> None:
    (files / "yaml/odd.py").write_text(
        "from lm_eval.api.task import ConfigurableTask\n"
        "class Odd(ConfigurableTask):\n"
        "    VERSION = 4\n"
        "    DATASET_PATH = 'some/odd'\n"
        "    def __init__(self, config=None):\n"
        "        super().__init__(config={'output_type': 'loglikelihood',\n"
        "            'test_split': 'test', 'doc_to_text': 'question',\n"
        "            'doc_to_target': '{{options[answer]}}'})\n",
        encoding="utf-8",
    )
    (files / "yaml/odd.yaml").write_text("task: odd\nclass: !function odd.Odd\n", encoding="utf-8")
    write_jsonl(files / "data/tasks/odd/test.jsonl", choice_rows(3))
    assert "would run code: !function odd.Odd" in load(files, "odd").failures[0].message
    task = only(load(files, "odd", allow_code=True))
    assert (task.name, len(task.documents)) == ("odd", 3)


def test_failures_are_one_line_and_the_other_tasks_go_on(files: Path) -> None:
    (files / "yaml/broken.yaml").write_text(
        "task: broken\noutput_type: [multiple_choice\ndoc_to_text: x\n", encoding="utf-8"
    )
    (files / "yaml/coder.yaml").write_text(
        CHOICE_YAML.format(name="coder") + "unsafe_code: true\n", encoding="utf-8"
    )
    (files / "yaml/pictures.yaml").write_text(
        CHOICE_YAML.format(name="pictures") + "doc_to_image: image\n", encoding="utf-8"
    )
    (files / "yaml/typo.yaml").write_text(
        CHOICE_YAML.format(name="typo") + "doc_to_txt: x\n", encoding="utf-8"
    )
    names = ("chioces", "broken", "coder", "pictures", "typo", "choices")
    loaded = load(files, *names)
    assert [task.name for task in loaded.tasks] == ["choices"]
    messages = {failure.name: failure.message for failure in loaded.failures}
    assert list(messages) == list(names[:-1])
    assert all("\n" not in message for message in messages.values())
    assert "did you mean 'choices'?" in messages["chioces"]
    assert "broken.yaml:3: " in messages["broken"] or "broken.yaml:2: " in messages["broken"]
    assert "--allow-code" in messages["coder"]
    assert "needs a model that takes image" in messages["pictures"]
    assert "typo.yaml:20: TypeError" in messages["typo"]
    write_jsonl(files / "data/tasks/coder/test.jsonl", choice_rows(2))
    assert only(load(files, "coder", allow_code=True)).name == "coder"


def test_shots_follow_the_task_where_it_fixes_them(files: Path) -> None:
    fixed = CHOICE_YAML.format(name="fixed") + "num_fewshot: 0\n"
    (files / "yaml/fixed.yaml").write_text(fixed, encoding="utf-8")
    own = CHOICE_YAML.format(name="own") + "num_fewshot: 4\n"
    (files / "yaml/own.yaml").write_text(own, encoding="utf-8")
    task = only(load(files, "fixed", shots=5))
    assert task.shots == 0
    assert task.notes[-1] == "0 shots, not 5: the task fixes the number"
    assert only(load(files, "own")).shots == 4
    assert only(load(files, "own", shots=1)).shots == 1
    pages = only(load(files, "pages", shots=5))
    assert (pages.shots, pages.notes) == (0, ("0 shots, not 5: a rolling perplexity takes none",))


def test_a_task_asked_twice_counts_once_unless_settings_differ(files: Path) -> None:
    assert len(load(files, "choices", "choices").tasks) == 1
    loaded = load_tasks(
        [TaskSlice("choices", 0), TaskSlice("choices", 2)],
        data=files / "data",
        include_path=[files / "yaml"],
    )
    assert len(loaded.tasks) == 1
    assert "asked for twice, with 0 and 2 shots" in loaded.failures[0].message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"question": "a"}\n{"question": \n', "test.jsonl:2: not JSON"),
        ("[1, 2]\n", "test.jsonl:1: a row must be an object, not list"),
        ("\n\n", "has no rows"),
        ('{"question": 1}\n{"question": "b"}\n', "values of several types"),
        ('{"queston": "a", "options": ["x", "y"], "answer": 0}\n', "test.jsonl"),
        ("\x00\xff", "test.jsonl"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(files: Path, content: str, reason: str) -> None:
    path = files / "data/tasks/choices/test.jsonl"
    path.write_bytes(content.encode("latin-1"))
    (failure,) = load(files, "choices").failures
    assert reason in failure.message
    assert "\n" not in failure.message


def test_folders_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data folder .*absent does not exist"):
        load_tasks([TaskSlice("demo_where")], data=tmp_path / "absent")
    with pytest.raises(DataError, match=r"task folder .*absent does not exist"):
        load_tasks([TaskSlice("demo_where")], include_path=[tmp_path / "absent"])


def test_demo_tasks_need_no_flag_and_no_index_of_lm_eval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_HOME", str(tmp_path / "fresh"))
    names = ["demo_where", "demo_last_word", "demo_grammar", "demo_sums"]
    loaded = load_tasks([TaskSlice(name) for name in names], offline=True)
    assert [task.name for task in loaded.tasks] == names
    assert all(len(task.documents) >= 500 for task in loaded.tasks)
    assert not (tmp_path / "fresh").exists()


def test_names_of_lm_eval_offline_without_data() -> None:
    loaded = load_tasks(
        [TaskSlice("winogrande"), TaskSlice("arc_esy"), TaskSlice("humaneval")], offline=True
    )
    messages = {failure.name: failure.message for failure in loaded.failures}
    assert "tasks/winogrande/validation.jsonl" in messages["winogrande"]
    assert "evalkit data pull winogrande --out DIR" in messages["winogrande"]
    assert "did you mean 'arc_easy'?" in messages["arc_esy"]
    assert "--allow-code" in messages["humaneval"]


def test_index_is_kept_and_renewed_when_damaged_or_changed(tmp_path: Path) -> None:
    from evalkit.tasks.lm_eval_entries import kept_entries

    own_tasks(tmp_path / "yaml")
    cache = write_jsonl(tmp_path / "index.json", [{"key": "other"}])
    assert sorted(kept_entries(tmp_path / "yaml", cache)) == ["choices", "pages", "sums"]
    written = cache.read_bytes()
    assert sorted(kept_entries(tmp_path / "yaml", cache)) == ["choices", "pages", "sums"]
    assert cache.read_bytes() == written
    (tmp_path / "yaml/sums.yaml").unlink()
    assert sorted(kept_entries(tmp_path / "yaml", cache)) == ["choices", "pages"]
    blocked = tmp_path / "index.json" / "below"
    assert sorted(kept_entries(tmp_path / "yaml", blocked)) == ["choices", "pages"]


@pytest.mark.parametrize("below", ["super_glue", pytest.param(".", marks=pytest.mark.slow)])
def test_the_index_is_that_of_lm_eval(below: str, tmp_path: Path) -> None:
    import lm_eval.tasks
    from lm_eval.tasks._index import TaskIndex

    from evalkit.tasks.lm_eval_entries import kept_entries

    root = Path(lm_eval.tasks.__file__).parent / below
    found = kept_entries(root, tmp_path / "index.json")
    assert len(found) > 10
    assert found == TaskIndex.build([root])


def test_pattern_tag_and_group_names() -> None:
    from evalkit.tasks.lm_eval_index import open_registry

    registry = open_registry(["mmlu"])
    assert len(registry.expand("mmlu")[0]) == 57
    assert [leaf.task_name for leaf in registry.expand("ai2_arc")[0]] == [
        "arc_challenge",
        "arc_easy",
    ]
    astronomy = [leaf.task_name for leaf in registry.expand("mmlu_astronom?")[0]]
    assert astronomy == ["mmlu_astronomy"]
    leaves, groups = registry.expand("mmlu_continuation")
    assert len(leaves) == 57
    assert leaves[0].groups == ("mmlu_continuation::stem", "mmlu_continuation")
    assert [len(group.tasks) for group in groups][-1] == 57
