"""A stored result is found again by what made it: what changed is measured anew, nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import servers
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import evalkit
from evalkit.metrics import TokenMetric, divergence
from evalkit.progress import Event
from evalkit.records import Comparison
from evalkit.running import environment
from evalkit.running.compare import run as compare_run
from evalkit.running.compare import worker
from evalkit.scoring.head import Forward

GENERATE = """
task: goes_on
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: generate_until
test_split: test
doc_to_text: "{{q}}"
doc_to_target: "{{target}}"
generation_kwargs: {until: ["<never>"], max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
QUESTIONS = ("the old house sees", "a bird brings the", "who had the river", "the tree is")


class House:
    """A model, a text, a task that generates, one that chooses, and a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = tiny.make_llama(root / "model")
        self.text = root / "text.txt"
        self.text.write_text(tiny.documents(1, 8), encoding="utf-8")
        self.generate = self._task("goes_on", GENERATE)
        self.choose = self._task("chooses", tiny.multiple_choice("chooses", root / "chooses.jsonl"))
        self.store = root / "store"

    def _task(self, name: str, yaml: str) -> Path:
        rows = [
            {"q": q, "target": self.greedy(q), "choices": [" a", " the", " river"], "answer": i % 3}
            for i, q in enumerate(QUESTIONS)
        ]
        data = self.root / f"{name}.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        file = self.root / f"{name}.yaml"
        file.write_text(yaml.replace("FILE", str(data)), encoding="utf-8")
        return file

    def greedy(self, prompt: str) -> str:
        """What the unchanged model says, eight tokens long."""
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        model = AutoModelForCausalLM.from_pretrained(self.model)
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        found = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        return str(tokenizer.decode(found, skip_special_tokens=True))

    def compare(self, *variants: str, **words: Any) -> tuple[Comparison, set[tuple[str, str]]]:
        """The comparison, and the (variant, stage) pairs of what was measured for it."""
        events: list[Event] = []
        words = {"model": self.model, "text": self.text, "out": self.store} | words
        found = evalkit.compare(
            *variants, device="cpu", convention="document", context=64, progress=events.append,
            **words,
        )  # fmt: skip
        assert [row.status for row in found.rows] == ["ok"] * len(found.rows), [
            row.message for row in found.rows
        ]
        # A task is named by its file before it is opened.
        names = {str(self.generate): "goes_on", str(self.choose): "chooses"}
        stages = {(e.variant, names.get(e.stage, e.stage)) for e in events if e.stage}
        return found, {one for one in stages if one[1] not in ("starting", "texts")}

    @property
    def tasks(self) -> str:
        """Both tasks, as a word of the command line."""
        return f"{self.generate},{self.choose}"


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def value(found: Comparison, row: int, metric: str) -> float:
    measured = found.rows[row].metrics[metric].value
    assert measured is not None
    return measured


def stages(measured: set[tuple[str, str]], variant: str) -> set[str]:
    return {stage for name, stage in measured if name == variant}


PROBES = {f"measuring {name}" for name in ("load time", "memory", "size", "speed")}


def test_a_directory_that_is_quantized_again(house: House) -> None:
    made = house.root / "quantized"
    evalkit.quantize("int4@bitsandbytes", model=house.model, out=made, progress=lambda _: None)
    first, _ = house.compare("fp32", str(made))
    shutil.rmtree(made)
    evalkit.quantize(
        "int4@bitsandbytes,quant_type=fp4", model=house.model, out=made, progress=lambda _: None
    )
    second, measured = house.compare("fp32", str(made))
    assert value(second, 1, "perplexity") != value(first, 1, "perplexity")
    assert stages(measured, str(made)) >= PROBES
    assert not stages(measured, "fp32")


def test_the_same_content_under_another_path_is_found(house: House) -> None:
    made = house.root / "quantized"
    evalkit.quantize("int4@bitsandbytes", model=house.model, out=made, progress=lambda _: None)
    first, _ = house.compare("fp32", str(made), tasks=house.tasks)
    moved = shutil.copytree(made, house.root / "moved")
    model = shutil.copytree(house.model, house.root / "other model")
    second, measured = house.compare("fp32", str(moved), model=model, tasks=house.tasks)
    assert not measured
    assert value(second, 1, "perplexity") == value(first, 1, "perplexity")


def test_generation_settings_matter_to_generated_text_only(house: House) -> None:
    first, _ = house.compare("fp32", "int8", tasks=house.tasks)
    assert value(first, 0, "goes_on.exact_match") == 1
    settings = {"repetition_penalty": 50.0, "bos_token_id": 0, "eos_token_id": 0}
    other = shutil.copytree(house.model, house.root / "other")
    (other / "generation_config.json").write_text(json.dumps(settings))
    second, measured = house.compare("fp32", "int8", model=other, tasks=house.tasks)
    assert value(second, 0, "goes_on.exact_match") < 1
    for variant in ("fp32", "int8"):
        assert stages(measured, variant) <= {"loading", "goes_on", "goes_on again"}
        assert "goes_on" in stages(measured, variant)
    # The first directory still has its own answers.
    again, measured = house.compare("fp32", "int8", tasks=house.tasks)
    assert value(again, 0, "goes_on.exact_match") == 1
    assert not measured


def test_every_variant_decodes_by_the_baselines_settings(house: House) -> None:
    first, _ = house.compare("fp32", "int4@bitsandbytes", tasks=house.generate)
    settings = {"repetition_penalty": 50.0, "bos_token_id": 0, "eos_token_id": 0}
    (house.model / "generation_config.json").write_text(json.dumps(settings))
    second, _ = house.compare("fp32", "int4@bitsandbytes", tasks=house.generate)
    samples = [
        next(m.table for m in evalkit.load_run(run, house.store).measurements if m.table)
        for found in (first, second)
        for run in found.rows[1].runs[-1:]
    ]
    assert samples[0] != samples[1]


def test_a_checkpoint_that_carries_other_settings_says_so(house: House) -> None:
    made = house.root / "quantized"
    evalkit.quantize("int4@bitsandbytes", model=house.model, out=made, progress=lambda _: None)
    for folder, penalty in ((house.model, 1.5), (made, 50.0)):
        settings = {"repetition_penalty": penalty, "bos_token_id": 0, "eos_token_id": 0}
        (folder / "generation_config.json").write_text(json.dumps(settings))
    found, _ = house.compare("fp32", str(made), tasks=house.generate)
    note = "text is generated by the baseline's settings: its own differ in repetition_penalty"
    assert note in found.rows[1].notes
    assert note not in found.rows[0].notes


def test_another_tokenizer(house: House) -> None:
    first, _ = house.compare("fp32", "fp16")
    file = house.model / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:20]
    file.write_text(json.dumps(content))
    second, measured = house.compare("fp32", "fp16")
    assert value(second, 0, "perplexity") != value(first, 0, "perplexity")
    assert "scoring" in stages(measured, "fp16")
    assert not PROBES & stages(measured, "fp32")


def test_another_chat_template_matters_to_chats_only(house: House) -> None:
    template = house.model / "chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %} a")
    first, _ = house.compare("fp32", tasks=house.generate, chat=True)
    plain, _ = house.compare("fp32", tasks=house.generate)
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %} river river")
    second, measured = house.compare("fp32", tasks=house.generate, chat=True)
    assert stages(measured, "fp32") <= {"loading", "goes_on", "goes_on again"}
    tables = [found.rows[0].runs[-1] for found in (first, second)]
    assert tables[0] != tables[1]
    again, measured = house.compare("fp32", tasks=house.generate)
    assert not measured
    assert again.rows[0].runs == plain.rows[0].runs


def test_another_model_behind_the_same_url(house: House) -> None:
    served = servers.Completions(house.model)
    with servers.serving(served) as url:
        words = f"served@endpoint,url={url}"
        first, _ = house.compare("fp32", words)
        _, measured = house.compare("fp32", words)
        assert "scoring" not in stages(measured, words)
        with torch.no_grad():
            for weight in served.model.parameters():
                weight.mul_(1.02)
        second, measured = house.compare("fp32", words)
    assert value(second, 1, "perplexity") != value(first, 1, "perplexity")
    assert not stages(measured, "fp32")


def test_another_batch_size_matters_to_llm_int8_only(house: House) -> None:
    first, _ = house.compare("fp32", "int8", batch_tokens=1024)
    second, measured = house.compare("fp32", "int8", batch_tokens=64)
    assert value(second, 1, "perplexity") != value(first, 1, "perplexity")
    assert stages(measured, "int8") == {"loading", "scoring"}
    assert not stages(measured, "fp32")


def test_a_halved_batch_is_another_result(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is measured under the key of the smaller batch, never of the larger."""
    half, _ = house.compare("fp32", "int8", batch_tokens=256)

    def here(task: Callable[..., Any], job: Any, listener: Any, **_: Any) -> Any:
        return task(job, listener)

    rows_of = Forward.rows

    def small_card(self: Forward, ids: torch.Tensor, *rest: Any) -> Any:
        if ids.numel() > 256 and "8bit" in str(self.model):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows_of(self, ids, *rest)

    monkeypatch.setattr(compare_run, "run_child", here)
    monkeypatch.setattr("evalkit.running.compare.expected.run_child", here)
    monkeypatch.setattr(Forward, "rows", small_card)
    whole, _ = house.compare("fp32", "int8", batch_tokens=512)
    assert whole.rows[1].runs[1] == half.rows[1].runs[1]
    assert value(whole, 1, "perplexity") == value(half, 1, "perplexity")
    assert worker.SMALLEST_BATCH <= 256


def test_a_metric_that_is_new_or_has_another_version_is_measured(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a package is installed later, and brought up to date after that."""

    def here(task: Callable[..., Any], job: Any, listener: Any, **_: Any) -> Any:
        return task(job, listener)

    monkeypatch.setattr(compare_run, "run_child", here)
    monkeypatch.setattr("evalkit.running.compare.expected.run_child", here)
    own = next(spec for spec in divergence.SPECS if spec.name == "total_variation")
    others = tuple(spec for spec in divergence.SPECS if spec is not own)
    twice = dataclasses.replace(own, version=own.version + 1, values=lambda found: 2 * found["tv"])

    def values(specs: tuple[TokenMetric, ...]) -> dict[str, Any]:
        monkeypatch.setattr(divergence, "SPECS", specs)
        found, _ = house.compare("fp32", "bf16")
        return {name: measured.value for name, measured in found.rows[1].metrics.items()}

    before, first, second = (values(specs) for specs in (others, (*others, own), (*others, twice)))
    assert "total_variation" not in before
    assert second["total_variation"] == pytest.approx(2 * first["total_variation"])
    for metric in ("perplexity", "kl_divergence_mean", "decode_tokens_per_second"):
        assert before[metric] == first[metric] == second[metric]


def test_other_library_versions(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.compare("fp32", "fp16")
    installed = environment.versions

    def upgraded(packages: Any) -> dict[str, str]:
        return {k: "99.0" if k == "torch" else v for k, v in installed(packages).items()}

    monkeypatch.setattr(environment, "versions", upgraded)
    monkeypatch.setattr("evalkit.running.build_job.versions", upgraded)
    found, measured = house.compare("fp32", "fp16")
    assert stages(measured, "fp32") & stages(measured, "fp16") >= PROBES
    assert "scoring" not in {stage for _, stage in measured}
    here = torch.__version__
    for row in found.rows:
        assert any(f"torch {here} and 99.0" in note for note in row.notes), row.notes
