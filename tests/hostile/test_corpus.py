"""Hostile files do nothing but the stated line: no code runs, nothing outside is touched."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from evalkit import cli


class Bomb:
    """Writes the file FIRED when it is unpickled."""

    def __init__(self, fired: Path) -> None:
        self.fired = fired

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.fired, "boom"))


@pytest.fixture
def fired(tmp_path: Path) -> Iterator[Path]:
    """The file that every bomb would write; it must never be there."""
    file = tmp_path / "FIRED"
    yield file
    assert not file.exists()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.make_llama(tmp_path / "model")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(tiny.documents(1, 2), encoding="utf-8")
    return file


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run the command line on words that must end in one line of stderr; returns it."""

    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, words)])
        assert ended.value.code in (1, 2)
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].isprintable()
        return lines[0]

    return run


def compare(model: Path, text: Path, *more: object) -> list[object]:
    out = model.parent / "store"
    return ["compare", "fp32", "--model", model, "--text", text, "--out", out, *more]


def test_pickled_weights_are_not_opened(model: Path, text: Path, fired: Path, line: Any) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(fired)))
    assert "can run code" in line(*compare(model, text))


def test_a_pickle_called_safetensors_is_none(
    model: Path, text: Path, fired: Path, line: Any
) -> None:
    (model / "model.safetensors").write_bytes(pickle.dumps(Bomb(fired)))
    assert "no whole safetensors file" in line(*compare(model, text))


def test_even_allowed_pickles_hold_tensors_only(
    model: Path, text: Path, fired: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    (model / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Bomb(fired)}, model / "pytorch_model.bin")
    with pytest.raises(SystemExit):
        cli.main([*map(str, compare(model, text, "--allow-pickle", "--format", "json"))])
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["status"] == "failed"


def test_remote_code_is_not_imported(model: Path, text: Path, fired: Path, line: Any) -> None:
    (model / "code.py").write_text(f"open({str(fired)!r}, 'w')\n")
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (model / "config.json").write_text(json.dumps(config))
    assert "--trust-remote-code" in line(*compare(model, text))


def lying_header(header: object, length: int | None = None) -> bytes:
    content = json.dumps(header).encode()
    return (len(content) if length is None else length).to_bytes(8, "little") + content


LIES = {
    "a header of an exabyte": lying_header({}, 2**60),
    "a header of all ones": lying_header({}, 2**64 - 1),
    "tensors of terabytes": lying_header(
        {"w": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}
    ),
    "offsets that are words": lying_header({"w": {"data_offsets": ["a", "b"]}}),
    "a header that is a list": lying_header([1, 2]),
    "nothing at all": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_safetensors(model: Path, text: Path, lie: str, line: Any) -> None:
    (model / "model.safetensors").write_bytes(LIES[lie])
    assert "model.safetensors" in line(*compare(model, text))


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("../outside.safetensors", "which is no file beside it"),
        ("/etc/passwd", "which is no file beside it"),
        ("..", ""),
        ("a\u0000b", "which is no file beside it"),
        ("x" * 5000, "shards missing"),
    ],
)
def test_shards_stay_in_their_folder(
    model: Path, text: Path, shard: str, said: str, line: Any
) -> None:
    (model / "model.safetensors").rename(model.parent / "outside.safetensors")
    index = {"weight_map": {"w": shard}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert said in line(*compare(model, text))


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 10**12},
        {"hidden_size": 10**9, "num_attention_heads": 10**8},
        {"num_hidden_layers": 10**9},
        {"vocab_size": -1},
    ],
    ids=str,
)
def test_huge_or_absurd_sizes_are_refused_before_anything_is_allocated(
    model: Path, text: Path, changes: dict[str, int], line: Any
) -> None:
    config = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").write_text(json.dumps(config))
    assert "config.json" in line(*compare(model, text))
    for words in (["compare", "fp32"], ["plan", "fp32"]):
        random = ["--weights", "random"] if words[0] == "compare" else []
        said = line(*words, "--model", model, *random)
        assert next(iter(changes)) in said


@pytest.mark.parametrize(
    "content", ['{"a":' * 100_000, "[" * 100_000, "null", '{"model_type": "\\ud800"}']
)
def test_json_bombs(model: Path, text: Path, content: str, line: Any) -> None:
    (model / "config.json").write_text(content)
    assert "config.json" in line(*compare(model, text))


def test_a_text_of_nested_json(model: Path, tmp_path: Path, line: Any) -> None:
    bomb = tmp_path / "bomb.jsonl"
    bomb.write_text('{"text": ' + "[" * 100_000 + "\n")
    assert "bomb.jsonl line 1" in line(*compare(model, bomb))


LAUGHS = "a: &a [x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAMLS = {
    "a tag that calls": "!!python/object/apply:os.system ['touch FIRED']",
    "a billion laughs": LAUGHS,
    "deep nesting": "[" * 100_000,
    "two megabytes": "# " + "x" * 2**21,
    "no mapping": "- a\n- b\n",
}


@pytest.mark.parametrize("bomb", YAMLS)
@pytest.mark.parametrize("command", ["check --limits", "batch"])
def test_yaml_bombs(
    tmp_path: Path, bomb: str, command: str, fired: Path, line: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "bomb.yaml"
    file.write_text(YAMLS[bomb])
    assert line(*command.split(), file)


@pytest.mark.parametrize(
    "notebook", ["../../outside.ipynb", "/etc/passwd", "~/x.ipynb", "x" * 5000]
)
def test_a_grid_stays_in_its_folder(tmp_path: Path, notebook: str, line: Any) -> None:
    (tmp_path / "grid").mkdir()
    (tmp_path.parent / "outside.ipynb").write_text("{}")
    file = tmp_path / "grid" / "grid.yaml"
    file.write_text(json.dumps({"notebook": notebook, "grid": {"limit": [1]}}))
    assert "notebook" in line("batch", file)


RUNNING = {
    "a function beside it": "doc_to_text: !function evil.run\n",
    "a function of the library": "process_docs: !function os.system\n",
    "a class": "class: !function evil.Task\n",
    "a metric that is a script": "metric_list: [{metric: ./evil}]\n",
    "a metric of evaluate": "metric_list: [{metric: acc, hf_evaluate: true}]\n",
    "a builder that unpickles": "dataset_path: pandas\n",
    "through an include": "include: other.yaml\n",
}
HEAD = "task: evil\noutput_type: loglikelihood\ndoc_to_target: a\ntest_split: test\n"


@pytest.fixture
def tasks(tmp_path: Path, fired: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a task's YAML, with Python beside it that must not run."""
    monkeypatch.setenv("EVALKIT_HOME", str(tmp_path / "home"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(fired)!r}, 'w')\ndef run(doc): return ''\n")
    (folder / "other.yaml").write_text("doc_to_text: !function evil.run\n")
    (folder / "data.jsonl").write_text('{"q": "a"}\n')
    return folder


@pytest.mark.parametrize("way", RUNNING)
def test_a_task_of_ones_own_runs_no_code(tasks: Path, way: str) -> None:
    from evalkit.records import TaskSlice
    from evalkit.tasks.loading import load_tasks

    (tasks / "evil.yaml").write_text(HEAD + RUNNING[way])
    for name in ("evil", str(tasks / "evil.yaml")):
        loaded = load_tasks([TaskSlice(name)], include_path=[tasks], offline=True)
        assert loaded.tasks == ()
        assert "--allow-code" in loaded.failures[0].message


def test_a_template_does_not_reach_python(tasks: Path) -> None:
    from evalkit.errors import EvalkitError
    from evalkit.records import TaskSlice
    from evalkit.tasks.loading import load_tasks
    from evalkit.tasks.prompts import build_requests

    (tasks / "evil.yaml").write_text(
        HEAD + "dataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\n"
        'doc_to_text: "{{ q.__class__.__mro__[1].__subclasses__() }}"\n'
    )
    loaded = load_tasks([TaskSlice("evil")], include_path=[tasks], offline=True)
    message = loaded.failures[0].message if loaded.failures else ""
    if not message:
        with pytest.raises(EvalkitError) as caught:
            build_requests(loaded.tasks[0])
        message = str(caught.value)
    assert "__class__" in message or "unsafe" in message


def test_a_task_folder_of_bombs(tasks: Path) -> None:
    from evalkit.errors import EvalkitError
    from evalkit.records import TaskSlice
    from evalkit.tasks.loading import load_tasks

    (tasks / "evil.yaml").write_text("[" * 100_000)
    with pytest.raises(EvalkitError, match="nested more than"):
        load_tasks([TaskSlice("evil")], include_path=[tasks], offline=True)


@pytest.mark.parametrize("name", ["../../text.txt", "/etc/passwd", "a\u0000b", ".."])
def test_a_manifest_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    from evalkit.errors import DataError
    from evalkit.tasks.manifest import MANIFEST, SCHEMA, read_manifest

    split = {"split": "test", "file": name, "sha256": "0", "rows": 1}
    content = {"schema": SCHEMA, "task": "t", "source": "s", "subset": "", "revision": "r"}
    (tmp_path / MANIFEST).write_text(json.dumps(content | {"splits": [split]}))
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


ESCAPES = re.compile("[\x00-\x08\x0b-\x1f\x7f\x9b\u202e\u2066]")
NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e<script>alert(1)</script>[bold]x"


def test_escape_codes_of_names_reach_no_terminal_and_no_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    from view.comparisons import comparison, standard_rows

    from evalkit import cli
    from evalkit.records import Comparison
    from evalkit.store.store import Store

    def nasty(value: Any) -> Any:
        return dataclasses.replace(
            value, message=NASTY, kernel=NASTY, notes=(NASTY,),
            variant=dataclasses.replace(value.variant, asked=NASTY),
        )  # fmt: skip

    made: Comparison = comparison(*map(nasty, standard_rows()))
    made = dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, name=NASTY),
        suite=dataclasses.replace(made.suite, name=NASTY),
        sentence=NASTY,
        notes=(NASTY,),
        command=NASTY,
    )
    store = Store(tmp_path / "store").prepare()
    store.save_comparison(made, "nasty")
    report = tmp_path / "report.html"
    for words in (["list"], ["report", "nasty", "--file", report]):
        with pytest.raises(SystemExit):
            cli.main([*map(str, words), "--out", str(store.root)])
    captured = capsys.readouterr()
    assert not ESCAPES.search(captured.out + captured.err)
    assert "\x1b" not in report.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in report.read_text(encoding="utf-8")


def test_progress_and_errors_are_printed_without_escape_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from evalkit.progress import Event, live

    with live(show=True) as listen:
        listen(Event(NASTY, NASTY, 1, 2, NASTY))
        listen(Event(NASTY, "", message=NASTY))
    for words in (["compare", NASTY], ["compare", "fp32", "--model", NASTY], ["chart", NASTY]):
        with pytest.raises(SystemExit):
            cli.main(words)
    captured = capsys.readouterr()
    # Bars are drawn with escape codes of evalkit's own; none of the text's may be among them.
    for code in ("\x1b]0", "\x1b[2J", "\x9b", "\u202e"):
        assert code not in captured.out + captured.err
