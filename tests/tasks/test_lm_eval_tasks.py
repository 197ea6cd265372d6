"""Scores of real tasks equal those of lm-eval's own Hugging Face backend.

A few items of each task by default; EVALKIT_PARITY_ITEMS=100 checks as many as asked for.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel

from evalkit.demo_data import demo_directory
from evalkit.models.loading import load_causal_lm, load_tokenizer
from evalkit.records import TaskSlice
from evalkit.tasks.loading import LoadedTask, load_tasks
from evalkit.tasks.local_model import LocalLanguageModel

pytestmark = pytest.mark.slow

ITEMS = int(os.environ.get("EVALKIT_PARITY_ITEMS", "3"))
# One subject of each of the four kinds of MMLU.
MMLU = ("abstract_algebra", "philosophy", "sociology", "anatomy")
TASKS = (
    "arc_easy", "arc_challenge", "hellaswag", "piqa", "openbookqa", "boolq", "sciq", "copa",
    "lambada_openai", "truthfulqa_mc1", "gsm8k", "wikitext", *(f"mmlu_{name}" for name in MMLU),
)  # fmt: skip
MODELS = ("demo", "stories260k")


@cache
def _model(name: str, shared: Path) -> tuple[PreTrainedModel, Any]:
    path = demo_directory() / "model" if name == "demo" else shared / "models" / name
    if not (path / "model.safetensors").exists():
        pytest.skip(f"{path} is not there")
    return load_causal_lm(path, dtype=torch.float32, device="cpu"), load_tokenizer(path)


@cache
def _tasks(shots: int, shared: Path) -> dict[str, LoadedTask]:
    slices = [TaskSlice(name, shots, ITEMS) for name in TASKS]
    loaded = load_tasks(slices, data=shared / "data", offline=True)
    assert not loaded.failures
    return {task.name: task for task in loaded.tasks}


@cache
def _manager() -> TaskManager:
    # Reading lm-eval's index of tasks takes seconds, so it is read once.
    return TaskManager()


def _evaluated(lm: Any, task: LoadedTask) -> dict[str, Any]:
    results: dict[str, Any] = simple_evaluate(
        lm,
        tasks=[task.task],
        num_fewshot=task.shots,
        limit=ITEMS,
        log_samples=True,
        bootstrap_iters=0,
        task_manager=_manager(),
    )
    return results


@pytest.mark.parametrize("shots", [0, 5])
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("model_name", MODELS)
def test_scores_equal_those_of_lm_evals_own_backend(
    model_name: str, name: str, shots: int, shared: Path
) -> None:
    if name == "wikitext" and shots:
        pytest.skip("whole texts have no examples")
    model, tokenizer = _model(model_name, shared)
    task = _tasks(shots, shared)[name]
    # The second BOS is lm-eval's; docs/lm-eval.md.
    found = _evaluated(LocalLanguageModel(model, tokenizer, double_bos=True), task)
    wanted = _evaluated(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8), task)
    _compare_answers(found["samples"][name], wanted["samples"][name])
    for metric, value in wanted["results"][name].items():
        if isinstance(value, float):
            # Sums over thousands of tokens are taken in float32 there, perplexity is their exp.
            tolerance = 1e-6 if "perplexity" in metric or "bits" in metric else 0.0
            assert found["results"][name][metric] == pytest.approx(value, rel=tolerance), metric


def _compare_answers(found: list[Any], wanted: list[Any]) -> None:
    assert [sample["doc_hash"] for sample in found] == [sample["doc_hash"] for sample in wanted]
    for one, other in zip(found, wanted, strict=True):
        for (mine,), (theirs,) in zip(one["resps"], other["resps"], strict=True):
            if isinstance(theirs, tuple):
                assert mine[0] == pytest.approx(theirs[0], abs=1e-3, rel=0)
                assert mine[1] == theirs[1]
            elif isinstance(theirs, float):
                assert mine == pytest.approx(theirs, rel=1e-6)
            else:
                assert mine == theirs
