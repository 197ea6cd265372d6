"""The command line: parse the words, call the API, show the result. Nothing heavy at import.

Each module beside this one holds the commands of one kind of work; they are registered here.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from evalkit import __version__
from evalkit.cli import (
    answering,
    batch,
    bench,
    comparing,
    damage_map,
    examining,
    making,
    opening,
    planning,
    searching,
    speculating,
)
from evalkit.cli.late import ChartCommand, CheckCommand
from evalkit.errors import EvalkitError
from evalkit.plain_text import clean, use_plain_signs

app = typer.Typer(
    name="evalkit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="What quantizing a language model costs in quality and buys in speed and memory.",
)


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


for command in (
    comparing.compare,
    planning.plan,
    bench.bench,
    making.quantize,
    batch.batch,
    speculating.speculate,
    damage_map.sensitivity,
    searching.search,
    answering.answers,
    examining.doctor,
    opening.flips,
    opening.report,
):
    app.command()(command)
app.command(cls=CheckCommand)(examining.check)
app.command(cls=ChartCommand)(opening.chart)
app.add_typer(making.data_app, name="data")
app.command("list")(opening.list_)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every foreseen error is one line on stderr with its exit code."""
    use_plain_signs(sys.stdout, sys.stderr)
    words = _spread(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(app(args=words, prog_name="evalkit", standalone_mode=False) or 0)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "evalkit"
        message = clean(error.format_message()).removesuffix(".")
        print(f"evalkit: {message} (see {command} --help)", file=sys.stderr)
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
