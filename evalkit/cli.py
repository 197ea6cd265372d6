"""The command line: parse the words, call the API, show the result. Nothing heavy at import."""

from __future__ import annotations

import enum
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from evalkit import __version__
from evalkit.errors import EvalkitError

app = typer.Typer(
    name="evalkit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="What quantizing a language model costs in quality and buys in speed and memory.",
)


# The base class of all errors in the words of a command; typer exports only this heir of it.
_CommandLineError: Any = typer.BadParameter.__mro__[2]


class Format(enum.StrEnum):
    """Output formats of a comparison."""

    table = "table"
    json = "json"
    markdown = "markdown"
    csv = "csv"


class PlanFormat(enum.StrEnum):
    """Output formats of a plan."""

    table = "table"
    json = "json"
    markdown = "markdown"


Variants = Annotated[
    list[str],
    typer.Argument(
        metavar="VARIANT…",
        help="PRECISION[@BACKEND][,key=value…] (fp16, int8, int4@gptq,group_size=64), or the"
        " directory or hub id of a quantized checkpoint. The first is the baseline.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="REF", help="demo, phi-3-small, a hub id or a directory."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Store; default $EVALKIT_HOME or ~/.cache/evalkit."),
]
StoredComparison = Annotated[
    str | None, typer.Argument(metavar="RUN", help="A stored comparison; default the newest.")
]
Seed = Annotated[int, typer.Option(help="Seed of calibration and sampling.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load pickled weights.")]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code of the checkpoint.")
]
Overlap = Annotated[
    bool,
    typer.Option("--allow-overlap", help="Calibrate on text that overlaps the evaluation text."),
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if debug:
        os.environ["EVALKIT_DEBUG"] = "1"
    if version:
        print(f"evalkit {__version__}")
        raise typer.Exit


@app.command()
def compare(
    variants: Variants,
    model: ModelOption = None,
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="demo, quick, standard or full.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE…", help="Text files, JSONL, or hf:NAME[:CONFIG][:SPLIT]."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="A,B", help="lm-eval tasks, groups or YAML files.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Few-shot examples of every task.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="First N documents of each text and items of each task.")
    ] = None,
    margin: Annotated[str, typer.Option(help="Tolerated loss: 1pp, 0.5pp, 2%.")] = "1pp",
    convention: Annotated[
        str | None, typer.Option(help="Windows: llama.cpp, gptq, lm-eval or document.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of a window.")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="V", help="Baseline; default the first variant.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Task data; default $EVALKIT_DATA.")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of your own lm-eval task YAMLs.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--apply-chat-template", help="Prompt tasks as chats.")
    ] = False,
    system: Annotated[
        str, typer.Option("--system-instruction", help="System message of chats.")
    ] = "",
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run code that the model writes (code tasks).")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    out: Out = None,
    format_: Annotated[Format, typer.Option("--format", help="Form of the result.")] = Format.table,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a scoring batch; default by device.")
    ] = None,
    allow_overlap: Overlap = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Compare variants of a model: quality, size, memory and speed, each with a verdict."""
    from evalkit import api
    from evalkit.progress import Event, live
    from evalkit.view import export, table

    request: dict[str, Any] = {
        "model": model, "suite": suite, "text": text or (), "tasks": _words(tasks),
        "shots": shots, "limit": limit, "margin": margin, "convention": convention,
        "context": context, "baseline": baseline, "device": device, "seed": seed, "data": data,
        "include_path": include_path, "chat": chat, "system": system, "allow_code": allow_code,
        "offline": offline, "out": out, "fresh": fresh, "batch_tokens": batch_tokens,
        "allow_overlap": allow_overlap, "allow_pickle": allow_pickle,
        "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    with live() as listener:
        if dry_run:
            print(api.dry_run(*variants, progress=listener, **request))
            return
        result = api.compare(*variants, progress=listener, **request)
        if out is not None:
            (out / "report.html").write_text(api.report(result), encoding="utf-8")
            listener(Event("evalkit", "", message=f"report: {out / 'report.html'}"))
    writers: dict[Format, Callable[[Any], str]] = {
        Format.json: export.dumps,
        Format.markdown: export.to_markdown,
        Format.csv: export.to_csv,
    }
    if format_ in writers:
        print(writers[format_](result).rstrip("\n"))
    else:
        table.print_table(result)
    raise typer.Exit(0 if all(row.status == "ok" for row in result.rows) else 1)


@app.command()
def plan(
    variants: Variants,
    model: ModelOption = None,
    gpu: Annotated[
        str | None, typer.Option(help="A card of `list gpus`; default this machine's own.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of a sequence.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    prefill_chunk: Annotated[
        int, typer.Option(help="Tokens of a prompt pass at most; 0 reads all prompts at once.")
    ] = 0,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    format_: Annotated[
        PlanFormat, typer.Option("--format", help="Form of the result.")
    ] = PlanFormat.table,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it: .svg, .png or .pdf.")
    ] = None,
) -> None:
    """Predict memory and speed of variants on a GPU before anything is loaded."""
    from evalkit import api
    from evalkit.view import plan_table

    found = api.plan(
        *variants, model=model, gpu=gpu, context=context, batch=batch,
        prefill_chunk=prefill_chunk, offline=offline,
    )  # fmt: skip
    if chart is not None:
        from evalkit.view.charts.canvas import write as write_chart
        from evalkit.view.charts.plan import plan_chart

        write_chart(plan_chart(found), chart)
    if format_ is PlanFormat.table:
        plan_table.print_plan(found)
    else:
        write = plan_table.dumps if format_ is PlanFormat.json else plan_table.plan_markdown
        print(write(found).rstrip("\n"))
        for name, why in found.refused:
            print(f"evalkit: {name}: {why}", file=sys.stderr)
    raise typer.Exit(1 if found.refused else 0)


@app.command()
def quantize(
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="int8, int4@gptq,…")],
    model: Annotated[str, typer.Option("--model", metavar="REF", help="What to quantize.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New directory of the checkpoint.")],
    device: Device = "auto",
    seed: Seed = 0,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Write a quantized checkpoint in its library's standard format."""
    from evalkit import api
    from evalkit.progress import live

    with live() as listener:
        path = api.quantize(
            variant, model=model, out=out, device=device, seed=seed, offline=offline,
            allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, progress=listener,
        )  # fmt: skip
    print(path)


@app.command()
def flips(
    run: StoredComparison = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    limit: Annotated[int, typer.Option(help="Items shown.")] = 20,
    out: Out = None,
    json_: Annotated[bool, typer.Option("--json", help="All items as one JSON list.")] = False,
) -> None:
    """Show the task items that changed between right and wrong, real damage first."""
    from evalkit import api
    from evalkit.view import ledger

    found = api.flips(run, task, store=out)
    print(ledger.to_json(found) if json_ else ledger.to_text(found, limit))


@app.command()
def chart(
    name: Annotated[str, typer.Argument(metavar="NAME", help="tradeoff, tasks, divergence, …")],
    run: StoredComparison = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="NAME.svg by default; also .png, .pdf.")
    ] = None,
    out: Out = None,
) -> None:
    """Draw one chart of a stored comparison."""
    from evalkit import api

    print(api.chart(name, file or Path(f"{name}.svg"), run, store=out))


@app.command()
def report(
    run: StoredComparison = None,
    format_: Annotated[
        str, typer.Option("--format", help="html, markdown, json, csv or card.")
    ] = "html",
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write here instead of printing.")
    ] = None,
    out: Out = None,
) -> None:
    """Report a stored comparison: HTML page, Markdown, JSON, CSV or model card section."""
    from evalkit import api

    text = api.report(run, format_, store=out)
    if file is None:
        print(text.rstrip("\n"))
    else:
        file.write_text(text, encoding="utf-8")
        print(file)


data_app = typer.Typer(no_args_is_help=True, help="Task data for work without a network.")
app.add_typer(data_app, name="data")


@data_app.command("pull")
def data_pull(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK…", help="lm-eval tasks or groups.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to hand to --data later.")],
    include_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of your own lm-eval task YAMLs.")
    ] = None,
) -> None:
    """Store the splits of tasks as DIR/tasks/TASK/SPLIT.jsonl with a manifest."""
    from evalkit import api

    for line in api.pull(*tasks, out=out, include_path=include_path):
        print(line)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="models, backends, metrics, suites, gpus or runs.")],
    out: Out = None,
) -> None:
    """List what is known: models, backends, metrics, suites, gpus or runs."""
    from evalkit import api

    for line in api.listing(what, out=out):
        print(line)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip()) if text else ()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every foreseen error is one line on stderr with its exit code."""
    words = _spread(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(app(args=words, prog_name="evalkit", standalone_mode=False) or 0)
    except _CommandLineError as error:
        print(f"evalkit: {error.format_message()} (see evalkit --help)", file=sys.stderr)
        sys.exit(2)
    except EvalkitError as error:
        if os.environ.get("EVALKIT_DEBUG"):
            traceback.print_exc()
        print(f"evalkit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        print("evalkit: stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def _spread(arguments: list[str]) -> list[str]:
    """Let --text take several files: `--text A B` becomes `--text A --text B`."""
    spread: list[str] = []
    in_text = False
    for word in arguments:
        if word.startswith("-"):
            in_text = word == "--text"
            spread.append(word)
        elif in_text and spread[-1] != "--text":
            spread += ["--text", word]
        else:
            spread.append(word)
    return spread


if __name__ == "__main__":
    main()
