"""Answers to tasks, local and served: a seed reaches sampled text, and none is no number."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import servers
import torch
from transformers import AutoModelForCausalLM

import evalkit
from evalkit.records import Comparison
from evalkit.store.samples import SampleRecords

HEAD = """
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
doc_to_text: "{{q}}"
"""
CHOICES = """
output_type: multiple_choice
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
SAMPLED = """
output_type: generate_until
doc_to_target: "{{choices[0]}}"
generation_kwargs: {do_sample: true, temperature: 1.0, max_gen_toks: 8, until: ["."]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of choices and one of sampled text."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"q": f"the old {word} sees", "choices": [" a tree", " the river", " and"], "answer": i % 3}
        for i, word in enumerate(("house", "stone", "bird", "tree", "river", "red"))
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, body in (("choices", CHOICES), ("sampled", SAMPLED)):
        head = HEAD.replace("NAME", name).replace("FILE", str(folder / "test.jsonl"))
        (folder / f"{name}.yaml").write_text(head + body)
    return folder


class Sampling(servers.Completions):
    """Draws by the seed it is given; `logprobs` are what it says of the generated tokens."""

    def __init__(self, path: Path, logprobs: Any = None) -> None:
        super().__init__(path)
        self.said = logprobs

    def __call__(self, request: Any, body: dict[str, Any]) -> None:
        if body.get("echo") or "seed" not in body:
            super().__call__(request, body)
            return
        self.asked.append(body)
        if self.said == "refused" and "logprobs" in body:
            servers.send_json(request, {"error": "logprobs are not known here"}, 400)
            return
        drawn = random.Random(body["seed"])
        text = "".join(drawn.choice("abcdefgh") for _ in range(body["max_tokens"]))
        choice = {"text": text, "index": 0, "logprobs": self.said}
        servers.send_json(request, {"choices": [choice], "usage": {}})


def texts(store: Path, checkpoint: Path, folder: Path, variant: str, seed: int) -> list[str]:
    """What `variant` said to the sampled task, into a store that is then removed."""
    task = str(folder / "sampled.yaml")
    result = evalkit.compare(variant, model=str(checkpoint), out=store, tasks=task, seed=seed)
    assert result.rows[0].status == "ok", result.rows[0].message
    (table,) = store.glob("**/samples-sampled.parquet")
    found: list[str] = SampleRecords.load(table).rows()["generated"].to_pylist()
    shutil.rmtree(store)
    return found


@pytest.mark.parametrize("kind", [pytest.param("local", marks=pytest.mark.slow), "served"])
def test_a_seed_gives_one_text_and_another_seed_another(
    tmp_path: Path, checkpoint: Path, folder: Path, kind: str
) -> None:
    with servers.serving(Sampling(checkpoint)) as url:
        variant = "fp32" if kind == "local" else f"served@endpoint,url={url}"
        first, again, other = (
            texts(tmp_path / "store", checkpoint, folder, variant, seed) for seed in (1, 1, 2)
        )
    assert first == again
    assert first != other
    assert len(set(first)) > 1


def failed(result: Comparison, task: str) -> None:
    row = result.rows[-1]
    assert row.status == "failed"
    assert f"task {task!r}, item " in row.message
    assert "use bf16 or fp32" in row.message
    assert "\n" not in row.message
    assert not [name for name in row.metrics if name.startswith(task)]


@pytest.mark.parametrize("task", ["choices", "sampled"])
def test_an_overflow_fails_its_task(
    tmp_path: Path, checkpoint: Path, folder: Path, task: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        # Each weight is a number, and so are the states; the logits are not.
        model.model.norm.weight.fill_(1e38)
        model.get_output_embeddings().weight.mul_(1e6)
    loud = tmp_path / "loud"
    shutil.copytree(checkpoint, loud)
    model.save_pretrained(loud)
    tasks = str(folder / f"{task}.yaml")
    failed(evalkit.compare("fp32", model=str(loud), out=tmp_path / "s", tasks=tasks), task)
    assert not list((tmp_path / "s").glob("**/parts-*/*.parquet"))


class Broken(servers.Completions):
    """Its probabilities of a prompt are NaN, as vLLM's are where float16 overflows."""

    def logprobs(self, tokens: list[int]) -> dict[str, Any]:
        found = super().logprobs(tokens)
        values = [None, *(float("nan") for _ in tokens[1:])]
        return found | {"token_logprobs": values, "top_logprobs": None}


def test_a_server_whose_probabilities_are_no_numbers(
    tmp_path: Path, checkpoint: Path, folder: Path
) -> None:
    silent = {"token_logprobs": [float("nan")]}
    for server, task in (
        (Broken(checkpoint), "choices"),
        (Sampling(checkpoint, silent), "sampled"),
    ):
        with servers.serving(server) as url:
            served = f"served@endpoint,url={url}"
            tasks = str(folder / f"{task}.yaml")
            result = evalkit.compare(
                "fp32", served, model=str(checkpoint), out=tmp_path, tasks=tasks
            )
        assert result.rows[0].status == "ok"
        failed(result, task)


def test_a_server_that_refuses_probabilities_generates_without(
    tmp_path: Path, checkpoint: Path, folder: Path
) -> None:
    server = Sampling(checkpoint, "refused")
    with servers.serving(server) as url:
        assert len(texts(tmp_path, checkpoint, folder, f"served@endpoint,url={url}", 1)) == 6
    generated = [body for body in server.asked if "seed" in body]
    assert "logprobs" in generated[0]
    assert "logprobs" not in generated[-1]
