"""Planning, quantizing and fetching: what comes before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from evalkit.declaration import documented, resolved
from evalkit.errors import DataError
from evalkit.options import PlanOptions, PullOptions, QuantizeOptions
from evalkit.progress import Listener, listening

if TYPE_CHECKING:
    from evalkit.analysis.planner import Plan


@documented(PlanOptions)
def plan(*variants: str, **options: Unpack[PlanOptions]) -> Plan:
    """What each variant of a model needs on a GPU and how fast it could be; loads no weights.

    By default `context` is 8192 tokens, or the model's positions where they are fewer. Without
    `gpu` the machine's own card, else an RTX 4090; without `model` Phi-3 Small.

    Raises UsageError or ModelError in one line.
    """
    from evalkit.running.hardware_plan import plan_hardware

    return plan_hardware([str(v) for v in variants], resolved(PlanOptions, options))


@documented(QuantizeOptions)
def quantize(
    variant: str, *, progress: Listener | None = None, **options: Unpack[QuantizeOptions]
) -> Path:
    """Write the quantized checkpoint of `variant` into the new directory `out`."""
    from evalkit.running.quantize import quantize_to

    given = resolved(QuantizeOptions, options)
    with listening(progress) as listener:
        return quantize_to(variant, given, listener)


@documented(PullOptions)
def pull(*tasks: str, **options: Unpack[PullOptions]) -> list[str]:
    """Store the splits of lm-eval tasks as OUT/tasks/TASK/SPLIT.jsonl; a line for each task.

    Raises DataError naming the tasks that could not be had, after storing the others.
    """
    from evalkit.tasks.pull import pull_tasks

    given = resolved(PullOptions, options)
    include = given["include_path"]
    pulled = pull_tasks(
        tasks,
        Path(given["out"]),
        include_path=() if include is None else (Path(include),),
        allow_code=given["allow_code"],
    )
    if pulled.failures:
        raise DataError("; ".join(failure.message for failure in pulled.failures))
    return [
        f"{folder}: {', '.join(f'{split.split} {split.rows} rows' for split in manifest.splits)}"
        for folder, manifest in zip(pulled.folders, pulled.manifests, strict=True)
    ]
