"""What can be asked of each command, declared once; see evalkit.declaration for what follows.

The groups at the top are shared by commands. Only what concerns how a result is shown (`--format`,
`--dry-run`) stands at the command line itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

from evalkit.declaration import Numbers, Option, Words, words
from evalkit.errors import UsageError, unknown

# What compare can measure, by the words of `--only`.
MEASURED = {
    "quality": frozenset({"text", "tasks"}),
    "text": frozenset({"text"}),
    "tasks": frozenset({"tasks"}),
    "speed": frozenset({"speed"}),
    "memory": frozenset({"memory"}),
}
_PLACE = "it says where files are, and they are known by their content"
_TRUST = "it decides whether something runs, not what it gives"


def seconds(text: str | float) -> float:
    """A time such as "10m", "90s", "1h" or a number of seconds."""
    if not isinstance(text, str):
        number = float(text)
    else:
        factors = {"s": 1, "m": 60, "h": 3600}
        digits, unit = (text[:-1], text[-1]) if text[-1:] in factors else (text, "s")
        try:
            number = float(digits) * factors[unit]
        except ValueError:
            number = -1.0
    if not 0 <= number < float("inf"):
        raise UsageError(f"time {text!r}: write seconds, minutes or hours such as 90s, 10m, 1h")
    return number


def batch_sizes(value: Numbers) -> tuple[int, ...] | str:
    """ "auto", or batch sizes from 1 without repetitions."""
    if value == "auto":
        return "auto"
    sizes = _numbers(value)
    if not sizes or min(sizes) < 1:
        raise UsageError(f"--batch-sizes {value!r}: write auto, or numbers from 1 such as 1,2,4,8")
    return tuple(dict.fromkeys(sizes))


def only(value: Words) -> tuple[str, ...]:
    """Words that name what is measured, each once; nothing stands for everything."""
    found = tuple(dict.fromkeys(words(value, "comma")))
    for one in found:
        if one not in MEASURED:
            raise unknown("word of --only", one, MEASURED)
    return found


def contexts(value: Numbers) -> tuple[int, ...]:
    """Lengths of prompts in tokens."""
    found = _numbers(value)
    if found is None:
        raise UsageError(f"--contexts {value!r}: write numbers of tokens such as 512,2048")
    return found


def chat_template_args(value: Words) -> tuple[str, ...]:
    """Words KEY=VALUE, each key once; a value is JSON (false, 3) or else text."""
    found = words(value, "comma")
    keys = [one.partition("=")[0].strip() for one in found]
    for one, key in zip(found, keys, strict=True):
        if not key.isidentifier() or "=" not in one or keys.count(key) > 1:
            raise UsageError(
                f"--chat-template-args {one!r}: write KEY=VALUE, each key once, such as "
                "enable_thinking=false"
            )
    return found


def _numbers(value: Any) -> tuple[int, ...] | None:
    """Whole numbers from a number, a list, or words joined by commas; None where one is none."""
    if isinstance(value, str):
        value = [word for word in value.split(",") if word.strip()]
    try:
        return tuple(int(one) for one in (value if isinstance(value, list | tuple) else [value]))
    except (TypeError, ValueError):
        return None


class NetworkOption(TypedDict, total=False):
    """Whether the network may be used."""

    offline: Annotated[bool, Option("Never use the network.", False, neutral=_TRUST)]


class TrustOptions(NetworkOption, total=False):
    """How far a checkpoint and the network are trusted."""

    allow_pickle: Annotated[bool, Option("Load pickled weights.", False, neutral=_TRUST)]
    trust_remote_code: Annotated[
        bool, Option("Run Python code of the checkpoint.", False, neutral=_TRUST)
    ]


class StoreOptions(TypedDict, total=False):
    """Where results are kept."""

    out: Annotated[
        str | Path | None,
        Option(
            "Store: a directory, for compare also s3://…; default $EVALKIT_HOME or"
            " ~/.cache/evalkit.",
            metavar="DIR",
            neutral=_PLACE,
        ),
    ]


class ModelOption(TypedDict, total=False):
    """What is evaluated."""

    model: Annotated[
        str | Path | None, Option("demo, phi-3-small, a hub id or a directory.", metavar="REF")
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


class SuiteOptions(TypedDict, total=False):
    """On what quality is measured."""

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
    tasks: Annotated[
        Words, Option("lm-eval tasks, groups or YAML files.", (), metavar="A,B", several="comma")
    ]
    shots: Annotated[int | None, Option("Few-shot examples of every task.", least=0)]
    limit: Annotated[
        int | None, Option("First N documents of each text and items of each task.", least=1)
    ]
    convention: Annotated[str | None, Option("Windows: llama.cpp, gptq, lm-eval or document.")]
    context: Annotated[int | None, Option("Tokens of a window.", least=1)]
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
        Option("Run code that the model writes or a task YAML names.", False, neutral=_TRUST),
    ]


class CompareOptions(ModelOption, SuiteOptions, RunOptions, total=False):
    """The options of `evalkit compare`."""

    margin: Annotated[
        str, Option("Tolerated loss: 1pp, 0.5pp, 2%.", "1pp", neutral="it judges numbers")
    ]
    only: Annotated[
        Words,
        Option(
            "Measure only these of quality (text and tasks), text, tasks, speed, memory.",
            (),
            metavar="PART,…",
            several="comma",
            parse=only,
            neutral="what is measured has the key that it has beside all the rest",
        ),
    ]
    speed_seconds: Annotated[
        float, Option("Seconds for the speed of each variant.", 20.0, least=0.0, metavar="N")
    ]
    until_decided: Annotated[
        bool,
        Option("Ask a task only until its loss is told from --margin, at every look.", False),
    ]
    baseline: Annotated[str | None, Option("Baseline; default the first variant.", metavar="V")]
    batch_tokens: Annotated[
        int | None, Option("Tokens of a scoring batch; default by device.", least=1)
    ]
    ray: Annotated[
        str,
        Option(
            "Run on this Ray cluster; local starts one here.",
            "",
            metavar="ADDRESS",
            neutral="it says where the work is done",
        ),
    ]
    allow_overlap: Annotated[
        bool,
        Option("Calibrate on text that overlaps the evaluation text.", False, neutral=_TRUST),
    ]


class BenchOptions(RunOptions, total=False):
    """The options of `evalkit bench`."""

    batch_sizes: Annotated[
        Numbers,
        Option(
            "auto doubles until throughput stops growing.",
            "auto",
            metavar="auto|1,2,4",
            parse=batch_sizes,
        ),
    ]
    prompt: Annotated[
        int, Option("Tokens of each prompt; default 512, or what the context allows.", 0, least=0)
    ]
    generate: Annotated[
        int, Option("Tokens decoded behind each prompt; default 128, or a quarter.", 0, least=0)
    ]
    contexts: Annotated[
        Numbers,
        Option("Further prompt lengths, at batch 1.", (), metavar="512,2048", parse=contexts),
    ]
    engine: Annotated[str, Option("eager, graph, compile, or auto: the fastest that runs.", "auto")]
    rounds: Annotated[int, Option("Processes of each variant, in turn.", 5, least=1)]
    repetitions: Annotated[int, Option("Repetitions of a point in a round.", 3, least=1)]
    soak: Annotated[
        str | float,
        Option(
            "Also decode without a pause, at the knee.",
            0.0,
            metavar="10m",
            parse=seconds,
            neutral="it adds a measurement beside the others",
        ),
    ]


class DoctorOptions(LoadOptions, total=False):
    """The options of `evalkit doctor`."""

    text: Annotated[
        str | Path | None, Option("A page of ordinary text to look at.", metavar="FILE")
    ]


class QuantizeOptions(DeviceOptions, TrustOptions, total=False):
    """The options of `evalkit quantize`."""

    model: Required[Annotated[str | Path, Option("What to quantize.", metavar="REF")]]
    out: Required[Annotated[str | Path, Option("New directory of the checkpoint.", metavar="DIR")]]


class PlanOptions(ModelOption, NetworkOption, total=False):
    """The options of `evalkit plan`."""

    gpu: Annotated[str | None, Option("A card of `list gpus`; default this machine's own.")]
    context: Annotated[int | None, Option("Tokens of a sequence.")]
    batch: Annotated[int, Option("Sequences at once.", 1)]
    prefill_chunk: Annotated[
        int, Option("Tokens of a prompt pass at most; 0 reads all prompts at once.", 0)
    ]


class SpeculateOptions(LoadOptions, total=False):
    """The options of `evalkit speculate`."""

    draft_tokens: Annotated[int, Option("Tokens drafted before each pass.", 4, least=1)]
    prompt_lookup: Annotated[bool, Option("Also draft from the text itself.", False)]
    text: Annotated[
        Words, Option("Where the prompts come from.", (), metavar="FILE…", several="spread")
    ]
    suite: Annotated[str | None, Option("Suite whose texts give the prompts.", metavar="NAME")]
    prompts: Annotated[int, Option("Number of prompts.", 8, least=1)]
    prompt: Annotated[int, Option("Tokens of a prompt at most.", 128, least=1)]
    generate: Annotated[int, Option("Tokens generated behind each prompt.", 64, least=2)]


class BatchOptions(TypedDict, total=False):
    """The options of `evalkit batch`."""

    out: Annotated[
        str | Path | None, Option("Default: beside the grid, with its name.", metavar="DIR")
    ]
    jobs: Annotated[int, Option("Cells at once, as far as memory allows.", 1)]
    ray: Annotated[
        str, Option("Run on this Ray cluster; local starts one here.", "", metavar="ADDRESS")
    ]


class PullOptions(TypedDict, total=False):
    """The options of `evalkit data pull`."""

    out: Required[Annotated[str | Path, Option("Folder to hand to --data later.", metavar="DIR")]]
    include_path: Annotated[
        str | Path | None, Option("Folder of your own lm-eval task YAMLs.", metavar="DIR")
    ]
    allow_code: Annotated[bool, Option("Run the Python that such a YAML names.", False)]


# By the name of the Python function.
COMMANDS: dict[str, type] = {
    "compare": CompareOptions,
    "bench": BenchOptions,
    "doctor": DoctorOptions,
    "quantize": QuantizeOptions,
    "plan": PlanOptions,
    "speculate": SpeculateOptions,
    "batch": BatchOptions,
    "pull": PullOptions,
}
