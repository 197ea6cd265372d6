"""What is fuzzed: readers of what users and the network hand in, each from bytes to nothing.

A target may raise EvalkitError, the error of one line; anything else is a finding.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from evalkit.errors import EvalkitError


@dataclass(frozen=True)
class Target:
    """A reader, and inputs it accepts from which others are made."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


@cache
def scratch() -> Path:
    """A folder in memory where there is one: 100,000 small files are slow on a disk."""
    memory = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="evalkit-fuzz-", dir=memory if memory.is_dir() else None)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def _file(name: str, data: bytes) -> Path:
    path = scratch() / name
    path.write_bytes(data)
    return path


def variant(data: bytes) -> None:
    """A variant spec; what parses has a canonical form that parses back to itself."""
    from evalkit.backends import parse_variant

    made = parse_variant(data.decode("utf-8", "surrogateescape"))
    if made.checkpoint is None:
        assert parse_variant(made.text).text == made.text


def grid(data: bytes) -> None:
    """GRID.yaml of evalkit batch."""
    from evalkit.running.batch.grid import read_grid

    read_grid(_file("grid.yaml", data))


def limits(data: bytes) -> None:
    """LIMITS.yaml of evalkit check."""
    import evalkit

    evalkit.check(_comparison(), _file("limits.yaml", data))


@cache
def _comparison() -> object:
    from view.comparisons import comparison, standard_rows

    return comparison(*standard_rows())


def jsonl(data: bytes) -> None:
    """An evaluation text in JSONL."""
    from evalkit.texts.documents import load_text

    load_text(str(_file("text.jsonl", data)))


def plain_text(data: bytes) -> None:
    """A plain evaluation text."""
    from evalkit.texts.documents import load_text

    load_text(str(_file("text.txt", data)))


def safetensors(data: bytes) -> None:
    """The header of a safetensors file."""
    from evalkit.models.safetensors_header import read_header

    read_header(_file("model.safetensors", data))


def config(data: bytes) -> None:
    """config.json of a checkpoint, up to the check of its architecture and shards."""
    from evalkit.models.resolve import resolve_config, resolve_model

    folder = scratch() / "config"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(data)
    resolve_config(str(folder))
    resolve_model(str(folder), offline=True)


def index(data: bytes) -> None:
    """model.safetensors.index.json of a checkpoint."""
    from evalkit.models.resolve import resolve_model

    folder = scratch() / "index"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors.index.json").write_bytes(data)
    resolve_model(str(folder), offline=True)


def quantization(data: bytes) -> None:
    """The quantization_config of a checkpoint, as planner and loader look at it."""
    from evalkit.backends import checkpoint, parse_variant

    folder = scratch() / "quantized"
    folder.mkdir(exist_ok=True)
    content = b'{"model_type": "llama", "vocab_size": 320, "quantization_config": ' + data + b"}"
    (folder / "config.json").write_bytes(content)
    made = parse_variant(str(folder))
    model = SimpleNamespace(config={}, embedding_rows=320, name="model")
    with suppress(EvalkitError):
        checkpoint.check(model, made)  # type: ignore[arg-type]
    checkpoint.scheme(made)


def run_file(data: bytes) -> None:
    """A run of the store."""
    from evalkit.store.store import read_run

    read_run(_file("run.json", data))


def comparison_file(data: bytes) -> None:
    """A stored comparison, shown as a table after reading."""
    from evalkit.store.store import read_comparison
    from evalkit.view import render

    render(read_comparison(_file("comparison.json", data)))


def manifest(data: bytes) -> None:
    """The manifest of a data folder."""
    from evalkit.tasks.manifest import read_manifest

    read_manifest(_file("manifest.json", data).parent)


def task_yaml(data: bytes) -> None:
    """The look at a user's task YAML that decides whether it would run code."""
    from evalkit.tasks.code import refuse_code

    refuse_code("task", _file("task.yaml", data))


def stream(data: bytes) -> None:
    """An endpoint's stream of events, as it comes from the socket."""
    import io

    from evalkit.serving import http

    class Connection:
        sock = None

        def __init__(self) -> None:
            self.answer = io.BytesIO(data)
            self.answer.status = 200  # type: ignore[attr-defined]

        def connect(self) -> None: ...
        def close(self) -> None: ...
        def request(self, *_: object) -> None: ...

        def getresponse(self) -> io.BytesIO:
            return self.answer

    address = http.Address("http://127.0.0.1:1/v1")
    with (
        mock.patch.object(http, "_connection", lambda _: Connection()),
        mock.patch.object(http.threading, "Timer", mock.MagicMock()),
    ):
        for _ in http.stream(address, "/completions", {}):
            pass


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


def _header(content: object, tail: bytes = b"") -> bytes:
    text = _json(content)
    return len(text).to_bytes(8, "little") + text + tail


def _records() -> tuple[bytes, bytes]:
    from evalkit.records import Comparison, Model, Run, Suite, TextSlice, Variant, to_json
    from evalkit.store.store import COMPARISON_SCHEMA, RUN_SCHEMA

    suite = Suite("demo", (TextSlice("town", "ab", 3),))
    variant_ = Variant("int4", "gptq", (("group_size", 128),))
    run = Run("r", Model("m", "id"), variant_, suite, "ok", notes=("a",))
    kept = _comparison()
    assert isinstance(kept, Comparison)
    return (
        _json({"schema": RUN_SCHEMA, "run": to_json(run)}),
        _json({"schema": COMPARISON_SCHEMA, "comparison": to_json(kept)}),
    )


def targets() -> dict[str, Target]:
    """All targets by name."""
    run, compared = _records()
    tensor = {"w": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}}
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    model = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000,
             "hidden_size": 64, "num_hidden_layers": 2, "auto_map": None}  # fmt: skip
    event = b'data: {"choices": [{"text": "a", "finish_reason": null}]}\n\ndata: [DONE]\n\n'
    files = {"task": "t", "source": "a/b", "subset": "", "revision": "local", "splits": [
        {"split": "test", "file": "test.jsonl", "sha256": "ab", "rows": 1}]}  # fmt: skip
    return {
        "variant": Target(variant, (
            b"int4@gptq,group_size=64,desc_act=true,damp_percent=0.1", b"fp16", b"int8",
            b"int4@bitsandbytes,type=nf4,double_quant=true", b"./folder", b"org/name")),
        "grid": Target(grid, (
            b"notebook: 02_compare.ipynb\ngrid:\n  variants: [[fp16, int8], [fp16, int4]]\n",
            b"notebook: 02_compare\ngrid: {limit: [1, 2]}\nparameters: {model: demo}\n"
            b"exclude: [{limit: 1}]\ninclude: [{limit: 3}]\n")),
        "limits": Target(limits, (b"max_memory: 8GB\nmax_task_loss: 1pp\n", b"min_top1: 97%\n")),
        "jsonl": Target(jsonl, (b'{"text": "one"}\n{"text": "two \\u00e9"}\n', b'{"page": "a"}\n')),
        "plain text": Target(plain_text, ("one é\n<|endoftext|>\ntwo\n".encode(),)),
        "safetensors": Target(safetensors, (
            _header(tensor, bytes(8)), _header({"__metadata__": {"format": "pt"}, **tensor}))),
        "config.json": Target(config, (_json(model), _json({**model, "model_type": "none"}))),
        "index.json": Target(index, (_json({"weight_map": {"a": "model-1.safetensors"}}),)),
        "quantization_config": Target(quantization, (_json(gptq), _json(nf4))),
        "run file": Target(run_file, (run,)),
        "comparison file": Target(comparison_file, (compared,)),
        "manifest": Target(manifest, (_json({"schema": "evalkit.data/1", **files}),)),
        "task YAML": Target(task_yaml, (
            b"task: a\ndataset_path: json\ndoc_to_text: '{{q}}'\nmetric_list: [{metric: acc}]\n",
            b"group: g\ntask: [a, {task: b, process_docs: !function x.y}]\ninclude: other.yaml\n")),
        "stream": Target(stream, (event, b": ping\n\n" + event)),
    }  # fmt: skip
