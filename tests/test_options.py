"""One declaration of an option: what the command line, Python, notebooks and keys make of it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
from notebooks_made import write_notebook

import evalkit
from evalkit import options as declarations
from evalkit.declaration import Option, checked, command_line, declared, resolved
from evalkit.errors import UsageError
from evalkit.options import COMMANDS, BenchOptions, CompareOptions
from evalkit.running.batch.notebook_options import check_options
from evalkit.running.bench.plan import make_bench_plan
from evalkit.running.compare.plan import make_plan
from evalkit.running.gpus import Gpu

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_signature_lists_every_option_with_its_default(command: str) -> None:
    parameters = inspect.signature(getattr(evalkit, command)).parameters
    for name, field in declared(COMMANDS[command]).items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].annotation == field.type
        if not field.required:
            assert parameters[name].default == field.option.default
        assert f"{name}: {field.option.help}" in str(getattr(evalkit, command).__doc__)


def test_an_added_field_is_found_everywhere(tmp_path: Path) -> None:
    """One field more in one declaration, nothing else edited, in a fresh process."""
    write_notebook(tmp_path / "note.ipynb", "evalkit.compare(colour=colour)")
    script = f"""
import contextlib, io, pathlib, pydoc
from typing import Annotated
import evalkit.options as declarations
from evalkit.declaration import Option, command_line, declared, resolved
declarations.CompareOptions.__annotations__["colour"] = Annotated[
    int, Option("Colour of the sky.", 1, least=1, neutral="it is only looked at")
]
import evalkit
from evalkit import cli
from evalkit.running.batch.notebook_options import check_options

shown = io.StringIO()
with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
    cli.main(["compare", "--help"])
assert "--colour" in shown.getvalue() and "Colour of the sky." in shown.getvalue()
text = pydoc.render_doc(evalkit.compare)
assert "colour" in text.splitlines()[2] and "colour: Colour of the sky." in text
notebook = pathlib.Path({str(tmp_path / "note.ipynb")!r})
check_options(notebook, {{"colour": 2}})
try:
    check_options(notebook, {{"colour": 0}})
except evalkit.EvalkitError as error:
    assert "--colour 0: give at least 1" in str(error), error
else:
    raise AssertionError("a value below the least passed")
given = resolved(declarations.CompareOptions, {{"colour": 7}})
line = command_line("compare", ["fp16"], declarations.CompareOptions, given)
assert line == "evalkit compare fp16 --colour 7", line
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_mistyped_option_is_an_error_of_the_type_checker(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    lines = ['import evalkit\nevalkit.compare("fp16", limit=3, tasks=["a"])\n']
    snippet.write_text(lines[0])
    command = [sys.executable, "-m", "mypy", "--strict", str(snippet)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    snippet.write_text(lines[0] + 'evalkit.compare("fp16", limt=3)\nevalkit.bench(rounds="x")\n')
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 'Unexpected keyword argument "limt"' in done.stdout
    assert 'expected "int"' in done.stdout


@pytest.mark.parametrize("use_jedi", [True, False])
def test_completion_offers_every_option(use_jedi: bool) -> None:
    """As in a notebook: what IPython's shell offers inside the brackets."""
    from IPython.core.completer import provisionalcompleter
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.push({"evalkit": evalkit})
    shell.Completer.use_jedi = use_jedi
    line = 'evalkit.compare("fp16", '
    with provisionalcompleter():
        found = [one.text for one in shell.Completer.completions(line, len(line))]
    assert {f"{name}=" for name in declared(CompareOptions)} <= set(found)


def test_the_recorded_line_is_read_back(tmp_path: Path) -> None:
    given = resolved(
        CompareOptions,
        {
            "text": ["a b", "c"], "tasks": ["x", "y"], "limit": 3, "chat": True, "margin": "2%",
            "serve": ["run it", "run that"], "out": tmp_path, "offline": True,
        },
    )  # fmt: skip
    line = command_line("compare", ["fp16", "int8"], CompareOptions, given)
    assert line == (
        "evalkit compare fp16 int8 --text 'a b' c --limit 3 --tasks x,y --apply-chat-template"
        f" --offline --out {tmp_path} --serve 'run it' --serve 'run that' --margin 2%"
    )


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (CompareOptions, {"limt": 3}, "unknown option 'limt'"),
        (CompareOptions, {"limt": 3}, "did you mean 'limit'"),
        (CompareOptions, {"limit": 0}, "--limit 0: give at least 1"),
        (CompareOptions, {"limit": "many"}, "--limit 'many': give a whole number"),
        (CompareOptions, {"weights": "randm"}, "did you mean 'random'"),
        (CompareOptions, {"offline": "yes"}, "--offline 'yes': give true or false"),
        (CompareOptions, {"seed": True}, "--seed True: give a whole number"),
        (CompareOptions, {"text": 5}, "--text 5: give a word or a list of words"),
        (BenchOptions, {"soak": "long"}, "write seconds, minutes or hours"),
        (COMMANDS["quantize"], {"model": "demo"}, "--out is missing"),
    ],
)
def test_what_is_no_value_is_one_line(kind: type, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        resolved(kind, given)
    assert message in str(error.value)


def test_none_stands_for_the_default() -> None:
    assert resolved(CompareOptions, {"margin": None, "text": None})["margin"] == "1pp"


# Another value of every option that changes a key. Files are made by the test.
OTHERS: dict[str, Any] = {
    "shots": 1, "limit": 2, "convention": "document", "context": 32, "chat": True,
    "system": "Be short.", "chat_template_args": "thinks=false", "seed": 1,
    "until_decided": True, "weights": "random", "batch_tokens": 64, "offload": True,
    "baseline": "int8", "device": "cuda", "speed_seconds": 5.0,
}  # fmt: skip


class House:
    """Two models, texts and tasks of one content each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = tiny.make_llama(root / "model")
        self.other = tiny.make_llama(root / "other", hidden=32)
        for number, name in enumerate(("text", "others")):
            (root / f"{name}.txt").write_text(tiny.documents(number, 3))
        rows = [{"q": "the old house", "choices": [" a", " the"], "answer": 0}]
        yaml = (
            "task: {name}\ndataset_path: some/where\noutput_type: multiple_choice\n"
            "test_split: test\ndoc_to_text: '{{{{q}}}}'\ndoc_to_target: answer\n"
            "doc_to_choice: choices\n"
        )
        for folder in ("yamls", "other_yamls"):
            (root / folder).mkdir()
            for name in ("one", "two"):
                text = yaml.format(name=name) + f"# {folder}\n"
                (root / folder / f"{name}.yaml").write_text(text)
        for folder, answer in (("data", 0), ("other_data", 1)):
            (root / folder / "one").mkdir(parents=True)
            rows[0]["answer"] = answer
            (root / folder / "one" / "test.jsonl").write_text(json.dumps(rows[0]))

    def words(self) -> dict[str, Any]:
        return {
            "model": self.model, "text": self.root / "text.txt", "tasks": "one",
            "include_path": self.root / "yamls", "data": self.root / "data", "device": "cpu",
            "out": self.root / "store", "offline": True,
        }  # fmt: skip

    def others(self) -> dict[str, Any]:
        return OTHERS | {
            "model": self.other, "text": self.root / "others.txt", "tasks": "two",
            "include_path": self.root / "other_yamls", "data": self.root / "other_data",
            "suite": "demo",
        }  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("options"))


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded: tasks are not looked up, and every device is there."""
    monkeypatch.setattr(
        "evalkit.running.compare.plan.generating_tasks",
        lambda subject, tasks, send: {task.name: True for task in tasks},
    )
    monkeypatch.setattr("evalkit.running.build_job.resolve_device", lambda asked: asked)
    card = Gpu("card", "GPU-card", memory=24 * 10**9, free=24 * 10**9, capability=(8, 9))
    monkeypatch.setattr("evalkit.running.gpus.gpus", lambda: (card,))


def compare_keys(words: Mapping[str, Any]) -> list[list[str]]:
    plan = make_plan(("fp32", "int8"), resolved(CompareOptions, words))
    return [[part.run.id for part in job.parts] for job in plan.jobs]


COMPARED = declared(CompareOptions)


@pytest.mark.parametrize("name", [n for n, f in COMPARED.items() if not f.option.neutral])
def test_an_option_changes_a_key_or_is_declared_neutral(house: House, name: str) -> None:
    words = house.words()
    if name == "suite":
        words = {k: v for k, v in words.items() if k not in ("text", "tasks")}
        changed = compare_keys(words | {"suite": "demo", "model": "demo"})
        assert changed != compare_keys(words | {"suite": "demo", "model": "demo", "tasks": "one"})
        return
    other = words | {name: house.others()[name]}
    if name == "weights":
        # Random weights have no quality: the key of the probes is left.
        other = {k: v for k, v in other.items() if k not in ("text", "tasks")}
        assert compare_keys(other)[0][0] != compare_keys(words)[0][0]
        return
    assert compare_keys(other) != compare_keys(words)


BENCHED = {
    "batch_sizes": "1,2", "prompt": 16, "generate": 4, "contexts": [8], "engine": "eager",
    "rounds": 2, "repetitions": 2, "seed": 1, "weights": "random", "offload": True,
    "device": "cuda",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [n for n, f in declared(BenchOptions).items() if not f.option.neutral]
)
def test_an_option_of_bench_changes_its_id(house: House, name: str) -> None:
    words = {"model": house.model, "device": "cpu", "out": house.root / "store"}
    other = words | {name: (BENCHED | {"model": house.other})[name]}
    plans = [make_bench_plan(("fp32",), resolved(BenchOptions, given)) for given in (words, other)]
    assert plans[0].id != plans[1].id


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_read_somewhere(command: str) -> None:
    """By its name in brackets, or handed on as a whole to what reads it."""
    read = set()
    for folder in ("api", "running", "cli"):
        for file in (ROOT / "evalkit" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                    read.add(node.slice.value)
    assert set(declared(COMMANDS[command])) <= read


def test_a_parameter_is_checked_as_the_option_that_it_becomes(tmp_path: Path) -> None:
    notebook = tmp_path / "note.ipynb"
    write_notebook(notebook, "evalkit.compare('fp16', text=texts, limit=n)")
    check_options(notebook, {"texts": ["a.txt"], "n": 3, "unrelated": object()})
    with pytest.raises(UsageError, match=r"parameter 'n' of note.ipynb: --limit 0"):
        check_options(notebook, {"n": 0})
    write_notebook(notebook, "evalkit.bench('fp16', limit=n)")
    with pytest.raises(UsageError, match=r"unknown option of bench in note\.ipynb 'limit'"):
        check_options(notebook, {"n": 1})


def test_an_option_without_a_declaration_is_an_error_of_ours() -> None:
    class Bare(dict[str, Any]):
        __annotations__ = {"word": str}

    with pytest.raises(TypeError, match=r"Bare\.word is declared without an Option"):
        declared(Bare)


def test_parsed_values_are_checked_once() -> None:
    field = declared(BenchOptions)["soak"]
    assert checked(field, "10m") == checked(field, checked(field, "10m")) == 600
    assert dataclasses.replace(field, option=Option("words")).flag == "--soak"
    assert declarations.contexts("8,16") == (8, 16)
