"""The options of each command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Required, TypedDict

from evalkit.declaration import Numbers, Option, Words
from evalkit.options.groups import (
    MARGIN,
    PLACE,
    TRUST,
    ChatOptions,
    DeviceOptions,
    FreshOption,
    LoadOptions,
    ModelOption,
    NetworkOption,
    RunOptions,
    SuiteOptions,
    TextOptions,
    TrustOptions,
)
from evalkit.options.values import batch_sizes, budgets, contexts, only, seconds, sizes


class CompareOptions(ModelOption, SuiteOptions, RunOptions, total=False):
    """The options of `evalkit compare`."""

    margin: Annotated[str, MARGIN]
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
    formats: Annotated[
        bool,
        Option(
            "Also every format that this machine can make of this model.",
            False,
            neutral="it names variants, and each is measured as if it had been written",
        ),
    ]
    decompose: Annotated[
        bool,
        Option(
            "Also the divergence of each variant's weights and of its kernels, apart.",
            False,
            neutral="it adds a measurement beside the others",
        ),
    ]
    calibration_seeds: Annotated[
        int,
        Option(
            "Draws of calibration samples for each method that is calibrated.",
            1,
            least=1,
            metavar="N",
            neutral="it names variants, and each is measured as if it had been written",
        ),
    ]
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
        Option("Calibrate on text that overlaps the evaluation text.", False, neutral=TRUST),
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


class SensitivityOptions(LoadOptions, TextOptions, FreshOption, total=False):
    """The options of `evalkit sensitivity`."""

    baseline: Annotated[str, Option("What the pieces are exchanged with.", "fp16", metavar="V")]
    by: Annotated[
        str, Option("Pieces: layer, module or kind.", "layer", choices=("layer", "module", "kind"))
    ]
    direction: Annotated[
        str,
        Option(
            "swap: one piece quantized; restore: all but one.",
            "swap",
            choices=("swap", "restore"),
        ),
    ]
    method: Annotated[
        str,
        Option(
            "swaps measure; gradient predicts, with one backward pass.",
            "swaps",
            choices=("swaps", "gradient"),
        ),
    ]
    control: Annotated[
        bool, Option("Also noise of equal size in place of each piece's error.", False)
    ]
    tokens: Annotated[
        int, Option("Tokens to measure on, evenly spread; 0 takes all.", 4096, least=0)
    ]
    seconds: Annotated[
        str | float,
        Option("Stop after this time; run again to go on.", 0.0, metavar="5m", parse=seconds),
    ]
    ray: Annotated[
        str,
        Option(
            "Spread pieces over this Ray cluster; local starts one here.",
            "",
            metavar="ADDRESS",
            neutral="it says where the work is done",
        ),
    ]


class AnswersOptions(LoadOptions, ChatOptions, FreshOption, total=False):
    """The options of `evalkit answers`."""

    prompts: Required[
        Annotated[
            str | Path,
            Option(
                "Prompts: JSONL, JSON, CSV, TSV, Parquet or text; FILE::COLUMN; or demo.",
                metavar="FILE",
                neutral=PLACE,
            ),
        ]
    ]
    limit: Annotated[int | None, Option("First N prompts.", least=1)]
    generate: Annotated[int, Option("Tokens of an answer at most.", 128, least=1)]
    temperature: Annotated[
        float, Option("Draw tokens at this temperature, by --seed; 0 is greedy.", 0.0, least=0.0)
    ]
    plain: Annotated[
        bool, Option("Continue texts as they are, without the model's chat template.", False)
    ]
    margin: Annotated[str, MARGIN]


class SearchOptions(LoadOptions, SuiteOptions, FreshOption, total=False):
    """The options of `evalkit search`."""

    bits: Annotated[
        str | float | Sequence[float],
        Option(
            "Budget: mean bits of a quantizable weight, scales included.",
            (),
            metavar="4.5|3.6,4.6",
            parse=budgets,
        ),
    ]
    bytes: Annotated[
        str | float | Sequence[float],
        Option("Budget: bytes of all weights.", (), metavar="90MB", parse=sizes),
    ]
    damage: Annotated[
        float, Option("The smallest mix whose predicted KL is at most this.", 0.0, metavar="NATS")
    ]
    sensitivity_text: Annotated[
        Words,
        Option(
            "Text on which damage is measured, other than --text; repeat it for several.",
            (),
            metavar="FILE",
            several="repeat",
        ),
    ]
    sensitivity_tokens: Annotated[
        int, Option("Tokens of it, evenly spread; 0 takes all.", 4096, least=0, metavar="N")
    ]
    swap: Annotated[
        Words,
        Option(
            "Formats whose damage is measured module by module; default one, the others scaled.",
            (),
            metavar="VARIANT",
            several="repeat",
        ),
    ]
    frontier: Annotated[bool, Option("Also the best mix at every size.", False)]


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
    "sensitivity": SensitivityOptions,
    "search": SearchOptions,
    "answers": AnswersOptions,
    "batch": BatchOptions,
    "pull": PullOptions,
}
