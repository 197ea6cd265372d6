"""`lm_eval --model evalkit`: found by lm-eval, made from words, wrong words named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model, model_registry
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evalkit.errors import UsageError
from evalkit.running import lm_eval_entry, lm_eval_model
from evalkit.running.lm_eval_model import EvalkitModel
from evalkit.tasks.local_model import LocalLanguageModel

TASK = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: label
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("model")
    words = ["<s>", "</s>", "the", "sky", "grass", "is", "blue", "green", "red", "?"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def test_only_a_process_with_lm_eval_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval_entry.register()
    lm_eval_entry.register()
    assert get_model("evalkit") is EvalkitModel
    assert "hf" in model_registry

    monkeypatch.delitem(sys.modules, "lm_eval")
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    lm_eval_entry.register()


def test_an_unknown_registry_is_a_warning_not_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    lm_eval_entry.register()
    assert "does not know evalkit" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"variant": "fp23"}, "fp23"),
        ({"variant": "fp32", "colour": "red"}, "colour"),
        ({"softmax_dtype": "float8"}, "softmax_dtype"),
    ],
)
def test_wrong_words_are_named(
    checkpoint: Path, tmp_path: Path, words: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        EvalkitModel(str(checkpoint), device="cpu", out=str(tmp_path), **words)


def test_a_batch_size_is_said_to_have_no_effect(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lm = EvalkitModel(
        str(checkpoint), "fp32", device="cpu", out=str(tmp_path), batch_size=8, max_length=32
    )
    assert "batch_tokens" in caplog.text
    assert lm.max_length == 32
    assert lm.model.dtype == torch.float32


@pytest.mark.slow
def test_lm_evals_command_line_knows_evalkit(checkpoint: Path, tmp_path: Path) -> None:
    items = [
        {"question": "the sky is", "choices": ["blue", "green red"], "label": 0},
        {"question": "the grass is", "choices": ["blue", "green red"], "label": 1},
    ]
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "colours.yaml").write_text(TASK.replace("DATA", str(data)))
    arguments = [
        "--model", "evalkit", "--device", "cpu", "--include_path", str(tmp_path),
        "--model_args", f"pretrained={checkpoint},variant=fp32,out={tmp_path / 'store'}",
        "--tasks", "colours", "--log_samples", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *arguments],
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (samples,) = (tmp_path / "out").rglob("samples_colours_*.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    lm = EvalkitModel(str(checkpoint), "fp32", device="cpu", out=str(tmp_path / "store"))
    for sample, item in zip(found, items, strict=True):
        own = lm._loglikelihood_tokens(
            [
                (("", ""), lm.tok_encode(item["question"]), lm.tok_encode(choice))
                for choice in item["choices"]
            ]
        )
        logged = [float(answer[0][0]) for answer in sample["resps"]]
        assert logged == pytest.approx([value for value, _ in own], abs=1e-5)


def test_requests_of_several_tasks_are_answered_task_by_task(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = EvalkitModel(str(checkpoint), "fp32", device="cpu", out=str(tmp_path))
    pairs = [("the sky is", " blue"), ("the grass is", " green"), ("the sky is", " red")]
    requests = [
        Instance("loglikelihood", {}, pair, 0, metadata=(task, 0, 1))
        for pair, task in zip(pairs, ("one", "two", "one"), strict=True)
    ]
    whole = [lm.loglikelihood([request])[0] for request in requests]
    asked: list[list[str | None]] = []
    own = LocalLanguageModel.loglikelihood

    def noted(self: LocalLanguageModel, given: list[Instance], disable_tqdm: bool = False) -> Any:
        asked.append([request.task_name for request in given])
        return own(self, given, disable_tqdm)

    monkeypatch.setattr(LocalLanguageModel, "loglikelihood", noted)
    found = lm.loglikelihood(requests)
    assert asked == [["one", "one"], ["two"]]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in whole], abs=1e-5)


@pytest.mark.parametrize(("word", "shown"), [("GPU-4090", ["GPU-4090"]), ("", [])])
def test_the_card_asked_for_is_the_one_that_lm_evals_process_sees(
    word: str, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reached(Exception):  # noqa: N818  nothing is wrong
        pass

    def build(*_: object) -> None:
        raise Reached

    seen: list[str] = []
    monkeypatch.setattr(lm_eval_model, "resolve_device", lambda asked: asked)
    monkeypatch.setattr(lm_eval_model, "resolve_subject", lambda _: SimpleNamespace(gpu=word))
    monkeypatch.setattr(lm_eval_model, "show_gpu", seen.append)
    monkeypatch.setattr(lm_eval_model, "build_job", build)
    with pytest.raises(Reached):
        EvalkitModel(pretrained="demo", variant="fp16", device="cuda:1")
    assert seen == shown
