"""Scores are lm-eval's own: compared with its evaluator on tasks it built and loaded itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.evaluator import evaluate
from lm_eval.tasks._factory import TaskFactory
from task_helpers import CHOICE_YAML, HashLM, choice_rows, own_data, own_tasks, write_jsonl

from evalkit.analysis.task_groups import ScoreGroup
from evalkit.errors import DataError, NotComparableError, UsageError
from evalkit.records import TaskSlice
from evalkit.store.samples import SampleRecords
from evalkit.tasks.answers import answer_requests
from evalkit.tasks.groups import score_groups
from evalkit.tasks.lm_eval_index import open_registry
from evalkit.tasks.loading import LoadedTask, load_tasks
from evalkit.tasks.prompts import build_requests
from evalkit.tasks.scores import (
    resampled_score,
    score_answers,
    score_task,
)

pytestmark = pytest.mark.usefixtures("registry_home")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    own_tasks(tmp_path / "yaml")
    own_data(tmp_path / "data")
    return tmp_path


def load(files: Path, *slices: TaskSlice, allow_code: bool = False) -> list[LoadedTask]:
    loaded = load_tasks(
        slices, data=files / "data", include_path=[files / "yaml"], allow_code=allow_code
    )
    assert loaded.failures == ()
    return list(loaded.tasks)


def lm_eval_itself(
    name: str,
    data_files: dict[str, Path],
    lm: Any,
    cache: Path,
    shots: int,
    limit: int,
    include: list[Path],
) -> dict[str, Any]:
    """lm-eval's evaluator on a task its own factory builds and its own loader reads."""
    registry = open_registry([name], include)
    absent = {
        key: None
        for key in ("training_split", "validation_split", "test_split", "fewshot_split")
        if (named := registry.expand(name)[0][0].config().get(key)) and named not in data_files
    }
    kwargs = {
        "data_files": {split: str(path) for split, path in data_files.items()},
        "cache_dir": str(cache),
    }
    data = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": kwargs}
    task = TaskFactory().build(
        registry.entries[name], overrides={**absent, **data}, registry=registry.entries
    )
    if task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=1234)
    results: dict[str, Any] = evaluate(
        lm, {"tasks": {name: task}}, limit=limit, bootstrap_iters=0, log_samples=True
    )
    return results


def assert_equal(records: SampleRecords, theirs: dict[str, Any]) -> None:
    """Every score, prompt, document hash and per-item metric value is the same."""
    name = records.head.task
    scores = {f"{s.metric},{s.filter}": s.value for s in records.head.scores}
    expected = {
        key: value
        for key, value in theirs["results"][name].items()
        if "," in key and "_stderr" not in key
    }
    assert scores == expected
    samples = {(s["filter"], s["doc_id"]): s for s in theirs["samples"][name]}
    rows = records.table.to_pylist()
    assert len(rows) == len(samples)
    for row in rows:
        sample = samples[row["filter"], row["doc_id"]]
        assert row["doc_hash"] == sample["doc_hash"]
        assert row["prompt_hash"] == sample["prompt_hash"]
        assert row["target"] == str(sample["target"])
        for metric in sample["metrics"]:
            value = sample[metric]
            assert row[f"metric:{metric}"] == (list(value) if isinstance(value, tuple) else value)
    for score in records.head.scores:
        assert records.items(score.metric, score.filter).score() == pytest.approx(score.value)


@pytest.mark.parametrize(
    ("name", "shots"), [("choices", 0), ("choices", 4), ("sums", 0), ("pages", 0)]
)
def test_own_tasks_score_as_in_lm_eval(files: Path, tmp_path: Path, name: str, shots: int) -> None:
    (task,) = load(files, TaskSlice(name, shots, 4))
    records = score_task(task, build_requests(task), HashLM(), tmp_path / "answers")
    data_files = {file.split: Path(file.path) for file in task.files}
    theirs = lm_eval_itself(name, data_files, HashLM(), tmp_path / "hf", shots, 4, [files / "yaml"])
    assert_equal(records, theirs)


SHARED_TASKS = (
    "arc_easy",
    "arc_challenge",
    "hellaswag",
    "piqa",
    "openbookqa",
    "boolq",
    "sciq",
    "copa",
    "lambada_openai",
    "truthfulqa_mc1",
    "mmlu_anatomy",
    "mmlu_high_school_us_history",
    "mmlu_marketing",
    "mmlu_formal_logic",
    "gsm8k",
    "wikitext",
)


class AnyLM(HashLM):
    """HashLM for prompts of any shape."""

    def _text(self, arguments: Any) -> str:
        number = self._number(arguments)
        return f"so that is {number % 100}. #### {number % 50}"


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 5])
def test_tasks_of_the_hub_score_as_in_lm_eval(shared: Path, tmp_path: Path, shots: int) -> None:
    slices = [TaskSlice(name, shots, 8) for name in SHARED_TASKS]
    loaded = load_tasks(slices, data=shared / "data", offline=True)
    assert loaded.failures == ()
    for task in loaded.tasks:
        requests = build_requests(task)
        records = score_task(task, requests, AnyLM(), tmp_path / "answers")
        assert len(records.table) == 8 * len(records.filters)
        assert not any("replaced" in note for note in requests.notes)
        data_files = hub_files(task, tmp_path)
        theirs = lm_eval_itself(task.name, data_files, AnyLM(), tmp_path / "hf", shots, 8, [])
        assert_equal(records, theirs)


def hub_files(task: LoadedTask, tmp_path: Path) -> dict[str, Path]:
    """The task's files in the hub's schema: one subject of mmlu, boolq with its label."""
    found = {}
    for file in task.files:
        path = Path(file.path)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        if task.name.startswith("mmlu_"):
            rows = [row for row in rows if row["subject"] == task.name.removeprefix("mmlu_")]
        if task.name == "boolq":
            rows = [{**row, "label": int(row["answer"])} for row in rows]
        found[file.split] = write_jsonl(tmp_path / "hub" / task.name / path.name, rows)
    return found


@pytest.mark.slow
def test_real_model_scores_as_in_lm_eval(shared: Path, tmp_path: Path) -> None:
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.manual_seed(0)
    model = str(shared / "models/stories260k")
    lm = HFLM(pretrained=model, device="cpu", batch_size=8, dtype="float32", max_length=512)
    slices = [TaskSlice(name, 2, 4) for name in ("piqa", "lambada_openai")]
    for task in load_tasks(slices, data=shared / "data", offline=True).tasks:
        records = score_task(task, build_requests(task), lm, tmp_path / "answers")
        data_files = hub_files(task, tmp_path)
        theirs = lm_eval_itself(task.name, data_files, lm, tmp_path / "hf", 2, 4, [])
        assert_equal(records, theirs)


def test_records_of_a_choice_task(files: Path, tmp_path: Path) -> None:
    (task,) = load(files, TaskSlice("choices"))
    requests = build_requests(task)
    lm = HashLM()
    records = score_task(task, requests, lm, tmp_path)
    assert records.filters == ("none",)
    assert records.key(records.primary) == "choices.acc_norm"
    rows = records.rows().to_pylist()
    margins = records.margins("acc")
    normed = records.margins("acc_norm")
    for row, item, margin, norm in zip(rows, requests.items, margins, normed, strict=True):
        expected = [lm._pair(request.arguments)[0] for request in item.requests]
        assert row["loglikelihoods"] == expected
        assert row["choice_lengths"] == [len(choice) for choice in item.choices]
        assert row["metric:acc"] == float(margin > 0)
        assert row["metric:acc_norm"] == float(norm > 0)
        assert row["correct"] == (norm > 0)
    assert {row["correct"] for row in rows} == {True, False}


def test_records_of_generated_text(files: Path, tmp_path: Path) -> None:
    (task,) = load(files, TaskSlice("sums"))
    records = score_task(task, build_requests(task), HashLM(), tmp_path)
    assert records.filters == ("strict", "loose-match")
    keys = [records.key(score) for score in records.head.scores]
    assert keys == ["sums.exact_match", "sums.exact_match.loose_match"]
    strict, loose = records.head.scores
    assert strict.value < loose.value
    row = records.rows("loose-match").to_pylist()[0]
    assert row["generated"] in {"it is 1", " = 1", "no idea"}
    assert math.isnan(records.margins()[0])


def test_a_group_averages_the_scores_its_yaml_names(files: Path, tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 9)):
        text = CHOICE_YAML.format(name=f"pair_{name}")
        (files / f"yaml/pair_{name}.yaml").write_text(text, encoding="utf-8")
        write_jsonl(files / f"data/tasks/pair_{name}/test.jsonl", choice_rows(count, 7 * count))
    for group, weighted in (("by_items", "true"), ("plain", "false")):
        (files / f"yaml/{group}.yaml").write_text(
            f"group: {group}\ntask: [pair_a, pair_b]\naggregate_metric_list:\n"
            f"  - metric: acc\n    weight_by_size: {weighted}\n",
            encoding="utf-8",
        )
    slices = [TaskSlice("by_items"), TaskSlice("plain")]
    loaded = load_tasks(slices, data=files / "data", include_path=[files / "yaml"])
    records = {
        task.name: score_task(task, build_requests(task), HashLM("w"), tmp_path / "answers")
        for task in loaded.tasks
    }
    members = ("pair_a.acc", "pair_b.acc")
    assert score_groups(loaded.groups, records) == [
        ScoreGroup("by_items.acc", members, True),
        ScoreGroup("plain.acc", members, False),
    ]
    assert score_groups(loaded.groups, {}) == []


def test_sampled_answers_repeat(files: Path, tmp_path: Path) -> None:
    path = files / "yaml/sums.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "repeats: 3\n", encoding="utf-8")
    (task,) = load(files, TaskSlice("sums"))
    requests = build_requests(task)
    lm = HashLM()
    records = score_task(task, requests, lm, tmp_path)
    assert (requests.repeats, requests.count, len(lm.asked)) == (3, 18, 18)
    assert len(records.rows()) == 6


def test_changed_data_and_foreign_answers_are_refused(files: Path, tmp_path: Path) -> None:
    (task,) = load(files, TaskSlice("choices"))
    requests = build_requests(task)
    answers = answer_requests(requests, HashLM(), tmp_path)
    (short,) = load(files, TaskSlice("choices", limit=5))
    with pytest.raises(NotComparableError, match=r"task choices: the number of items differs \(5"):
        score_answers(short, requests, answers)
    with pytest.raises(NotComparableError, match="task choices: these answers belong to other"):
        score_answers(short, build_requests(short), answers)
    rows = choice_rows(12)
    rows[7]["question"] = "changed?"
    write_jsonl(files / "data/tasks/choices/test.jsonl", rows)
    (other,) = load(files, TaskSlice("choices"))
    with pytest.raises(NotComparableError, match=r"task choices: doc_hash of item 7 differs"):
        score_answers(other, requests, answers)


def test_metric_code_that_fails_is_one_line(files: Path, tmp_path: Path) -> None:
    (files / "yaml/judge.py").write_text(
        "def judge(doc, results):\n    return {'acc': 1 / 0}\n", encoding="utf-8"
    )
    text = CHOICE_YAML.format(name="judged") + "process_results: !function judge.judge\n"
    (files / "yaml/judged.yaml").write_text(text, encoding="utf-8")
    write_jsonl(files / "data/tasks/judged/test.jsonl", choice_rows(2))
    (task,) = load(files, TaskSlice("judged"), allow_code=True)
    with pytest.raises(DataError, match="task 'judged': ZeroDivisionError: division by zero"):
        score_task(task, build_requests(task), HashLM(), tmp_path)


def test_corpus_metrics_can_be_resampled(files: Path, tmp_path: Path) -> None:
    from sklearn.metrics import f1_score

    rows = choice_rows(20)
    for number, row in enumerate(rows):
        row |= {"options": row["options"][:2], "answer": number % 2}
    text = CHOICE_YAML.format(name="pairs").replace("metadata:", "  - metric: f1\nmetadata:")
    (files / "yaml/pairs.yaml").write_text(text, encoding="utf-8")
    write_jsonl(files / "data/tasks/pairs/test.jsonl", rows)
    (task,) = load(files, TaskSlice("pairs"))
    records = score_task(task, build_requests(task), HashLM(), tmp_path)
    everything = np.arange(20)
    for metric in ("acc", "acc_norm", "f1"):
        score = resampled_score(records, metric)
        assert score(everything) == pytest.approx(records.score(metric).value)
    chosen = np.array([0, 0, 3, 5, 5, 8, 11, 12, 17, 19])
    pairs = [records.rows().to_pylist()[place]["metric:f1"] for place in chosen]
    gold, said = zip(*pairs, strict=True)
    assert resampled_score(records, "f1")(chosen) == pytest.approx(f1_score(gold, said))
    with pytest.raises(UsageError, match=r"pairs.f1 is aggregated by f1"):
        records.items("f1")


def test_metrics_of_the_tasks_own_aggregation_have_no_interval(files: Path, tmp_path: Path) -> None:
    (files / "yaml/own.py").write_text(
        "def results(doc, results):\n    return {'odd': {'ll': results[0][0]}}\n"
        "def total(items):\n    return sum(item['ll'] for item in items)\n",
        encoding="utf-8",
    )
    head, _ = CHOICE_YAML.format(name="owned").split("metric_list:")
    text = head + (
        "process_results: !function own.results\nmetric_list:\n  - metric: odd\n"
        "    aggregation: !function own.total\n    higher_is_better: false\n"
    )
    (files / "yaml/owned.yaml").write_text(text, encoding="utf-8")
    write_jsonl(files / "data/tasks/owned/test.jsonl", choice_rows(3))
    (task,) = load(files, TaskSlice("owned"), allow_code=True)
    records = score_task(task, build_requests(task), HashLM(), tmp_path)
    (score,) = records.head.scores
    assert (score.aggregation, score.higher_is_better) == ("own.total", False)
    first = [row["loglikelihoods"][0] for row in records.rows().to_pylist()]
    assert score.value == pytest.approx(sum(first))
    assert [row["correct"] for row in records.rows().to_pylist()] == [None] * 3
    with pytest.raises(UsageError, match=r"aggregated by code of the task \(own.total\)"):
        resampled_score(records, "odd")


class SomeUnscored(HashLM):
    """Cannot score what is about thing 2 or 5."""

    def _pair(self, arguments: Any) -> tuple[float, bool]:
        unscored = arguments[1].strip() in ("thing 2", "thing 5")
        return (math.nan, False) if unscored else super()._pair(arguments)


def test_items_that_cannot_be_scored_are_left_out_by_their_number(
    files: Path, tmp_path: Path
) -> None:
    (task,) = load(files, TaskSlice("choices", 0, 6))
    requests = build_requests(task)
    whole = score_task(task, requests, HashLM(), tmp_path / "whole")
    records = score_task(task, requests, SomeUnscored(), tmp_path / "some")
    note = "2 of 6 items left out, as a continuation is empty or longer than the model's context"
    assert records.head.notes == (f"{note}: item 2, 5",)
    assert whole.head.notes == ()
    assert {score.n for score in records.head.scores} == {4}
    kept = [place for place in range(6) if place not in (2, 5)]
    scored, all_items = records.items("acc"), whole.items("acc")
    assert scored.score() == all_items.values[kept].mean()
    assert scored.weights.tolist() == [1, 1, 0, 1, 1, 0]
    assert records.rows(None)["correct"].to_pylist()[2] is None
    assert np.isnan(records.margins()).tolist() == [weight == 0 for weight in scored.weights]
    (only,) = load(files, TaskSlice("choices", 0, 6))
    with pytest.raises(DataError, match="no item can be scored"):
        nothing = answer_requests(requests, SomeUnscored(), tmp_path / "some")
        nothing.loglikelihood[:] = math.nan
        score_answers(only, requests, nothing)
