"""What is wrong with a tokenizer is said in one line before anything is measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

import evalkit
from evalkit.errors import DataError, EvalkitError
from evalkit.running.compare import generating
from evalkit.running.compare import run as compare_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    return tiny.make_llama(folder / "model")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was begun in a process of its own; the process is this one."""
    names: list[str] = []

    def here(task: Callable[..., Any], job: Any, listener: Any, *, gpu: str | None = None) -> Any:
        names.append(task.__name__)
        return task(job, listener)

    monkeypatch.setattr(compare_run, "run_child", here)
    monkeypatch.setattr("evalkit.running.compare.expected.run_child", here)
    monkeypatch.setattr(generating, "run_child", lambda *_: {"piqa": False})
    return names


def refusal(model: Path, **options: Any) -> str:
    text = model.parent / "town.txt"
    text.write_text(tiny.documents(1, 3), encoding="utf-8")
    asked = {"text": [str(text)]} | options
    with pytest.raises(EvalkitError) as caught:
        evalkit.compare(
            "fp32", model=str(model), out=model.parent / "store", device="cpu", offline=True,
            progress=lambda event: None, **asked,
        )  # fmt: skip
    assert caught.value.exit_code == 2
    return str(caught.value)


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def add_token(model: Path, token: str) -> None:
    file = model / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 320, "content": token})
    content["added_tokens"][-1]["special"] = False
    file.write_text(json.dumps(content))


def test_a_token_of_the_text_beyond_the_embedding(model: Path, begun: list[str]) -> None:
    add_token(model, "house")
    said = refusal(model)
    assert "token 'house' of text town has id 320" in said
    assert "only 320 rows (0 to 319)" in said
    assert begun == ["_count"]


def test_a_mark_of_the_chat_beyond_the_embedding(model: Path, begun: list[str]) -> None:
    add_token(model, "<|user|>")
    template = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    said = refusal(model, text=[], tasks=["piqa"], chat=True)
    assert "token '<|user|>' of '<|user|>a'… has id 320" in said
    assert begun == ["_count"]


def test_a_tokenizer_with_neither_bos_nor_eos(model: Path, begun: list[str]) -> None:
    change(model / "tokenizer_config.json", bos_token=None, eos_token=None)
    said = refusal(model)
    assert "neither BOS nor EOS" in said
    assert "tokenizer_config.json, or give --convention llama.cpp, gptq or document" in said
    assert "set bos_token or eos_token" in refusal(model, text=[], tasks=["piqa"])
    assert begun == ["_count", "_count"]


def test_no_vocabulary(model: Path, begun: list[str]) -> None:
    (model / "tokenizer.json").unlink()
    assert "none of tokenizer.json" in refusal(model)
    assert begun == ["_count"]


@pytest.mark.parametrize("command", [evalkit.compare, evalkit.dry_run])
def test_a_task_that_cannot_be_had_ends_the_command_before_a_model_is_loaded(
    command: Callable[..., Any], model: Path, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found after the speed of the first variant; --dry-run did not find it."""

    def unknown(*_: Any) -> None:
        raise DataError("unknown task 'piqa'")

    monkeypatch.setattr("evalkit.running.compare.tokens.part_requests", unknown)
    monkeypatch.setattr("evalkit.running.compare.describe.run_child", lambda *_, **__: {})
    with pytest.raises(DataError, match="unknown task 'piqa'"):
        command(
            "fp32", model=str(model), out=model.parent / "store", device="cpu", offline=True,
            tasks="piqa", progress=lambda event: None,
        )  # fmt: skip
    assert begun == ["_count"]
