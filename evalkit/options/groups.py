"""Groups of options that several commands share, and on what quality is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypedDict

from evalkit.declaration import Option, Words
from evalkit.options.values import chat_template_args

PLACE = "it says where files are, and they are known by their content"
TRUST = "it decides whether something runs, not what it gives"


class NetworkOption(TypedDict, total=False):
    """Whether the network may be used."""

    offline: Annotated[bool, Option("Never use the network.", False, neutral=TRUST)]


class TrustOptions(NetworkOption, total=False):
    """How far a checkpoint and the network are trusted."""

    allow_pickle: Annotated[bool, Option("Load pickled weights.", False, neutral=TRUST)]
    trust_remote_code: Annotated[
        bool, Option("Run Python code of the checkpoint.", False, neutral=TRUST)
    ]


class StoreOptions(TypedDict, total=False):
    """Where results are kept."""

    out: Annotated[
        str | Path | None,
        Option(
            "Store: a directory, for compare also s3://…; default $EVALKIT_HOME or"
            " ~/.cache/evalkit.",
            metavar="DIR",
            neutral=PLACE,
        ),
    ]


class ModelOption(TypedDict, total=False):
    """What is evaluated."""

    model: Annotated[
        str | Path | None,
        Option("demo, phi-3-small, a hub id, a directory or .gguf.", metavar="REF"),
    ]


class DeviceOptions(TypedDict, total=False):
    """On what a model runs, and what its random choices begin with."""

    device: Annotated[str, Option("auto, cpu, cuda or cuda:N.", "auto")]
    seed: Annotated[int, Option("Seed of calibration and sampling.", 0)]


class LoadOptions(ModelOption, DeviceOptions, TrustOptions, StoreOptions, total=False):
    """What every command asks that loads a model and keeps its results."""


class RunOptions(LoadOptions, total=False):
    """What compare and bench ask alike."""

    weights: Annotated[
        str,
        Option(
            "checkpoint, or random: speed and memory without a download.",
            "checkpoint",
            choices=("checkpoint", "random"),
        ),
    ]
    offload: Annotated[
        bool,
        Option("Keep what does not fit in main memory or on disk; every row says so.", False),
    ]
    serve: Annotated[
        Words,
        Option(
            "Start this server for a served@endpoint variant, and stop it; one for each.",
            (),
            metavar="COMMAND",
            several="repeat",
            neutral="a server is known by what it answers",
        ),
    ]
    fresh: Annotated[
        bool,
        Option("Measure everything again.", False, neutral="it repeats what was measured"),
    ]


class TextOptions(TypedDict, total=False):
    """On what text is measured."""

    suite: Annotated[str | None, Option("demo, quick, standard or full.", metavar="NAME")]
    text: Annotated[
        Words,
        Option(
            "Files (text, CSV, TSV, JSON, JSONL, Parquet; .gz, .zst), FILE::COLUMN, a directory,"
            " or hf:NAME[:CONFIG][:SPLIT][:COLUMN].",
            (),
            metavar="FILE…",
            several="spread",
        ),
    ]
    limit: Annotated[
        int | None, Option("First N documents of each text and items of each task.", least=1)
    ]
    convention: Annotated[str | None, Option("Windows: llama.cpp, gptq, lm-eval or document.")]
    context: Annotated[int | None, Option("Tokens of a window.", least=1)]


class SuiteOptions(TextOptions, total=False):
    """On what quality is measured."""

    tasks: Annotated[
        Words, Option("lm-eval tasks, groups or YAML files.", (), metavar="A,B", several="comma")
    ]
    shots: Annotated[int | None, Option("Few-shot examples of every task.", least=0)]
    data: Annotated[str | Path | None, Option("Task data; default $EVALKIT_DATA.", metavar="DIR")]
    include_path: Annotated[
        str | Path | None, Option("Folder of your own lm-eval task YAMLs.", metavar="DIR")
    ]
    chat: Annotated[bool, Option("Prompt tasks as chats.", False, flag="--apply-chat-template")]
    system: Annotated[str, Option("System message of chats.", "", flag="--system-instruction")]
    chat_template_args: Annotated[
        Words,
        Option(
            "Arguments of the chat template, such as enable_thinking=false.",
            (),
            metavar="KEY=VALUE,…",
            several="comma",
            parse=chat_template_args,
        ),
    ]
    allow_code: Annotated[
        bool,
        Option("Run code that the model writes or a task YAML names.", False, neutral=TRUST),
    ]
