"""From options to what a search may do: candidates, budgets, and three texts that share nothing.

Nothing is made here. What cannot work ends the command before the first module is swapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.analysis import allocation
from evalkit.declaration import declared, resolved, words
from evalkit.errors import UsageError, VariantError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.shapes import Shape, decoder_shapes, meta_model
from evalkit.options import CompareOptions, SearchOptions
from evalkit.progress import Listener, ignore
from evalkit.records import UNQUANTIZED
from evalkit.running.build_job import resolve_subject
from evalkit.running.calibration import (
    SELF,
    calibration_seed,
    calibration_source,
    choose_calibration,
)
from evalkit.running.compare.plan import ComparePlan, make_plan
from evalkit.running.job import Job
from evalkit.running.search.candidates import Candidates, candidates, groups_of
from evalkit.running.search.damage import swapped_formats
from evalkit.texts.documents import Text, load_texts
from evalkit.texts.uses import TextUses, Use


@dataclass(frozen=True)
class SearchPlan:
    """What is chosen from, and for which budgets in bytes of the quantizable weights.

    `jobs` are the baseline's, under "", and that of each format alone. `rest_bytes` are those of
    everything that is not quantized. Without `budgets` the summed damage is bounded.
    """

    found: Candidates
    shapes: Mapping[str, Shape]
    jobs: Mapping[str, Job]
    compared: ComparePlan
    rest_bytes: int
    budgets: tuple[float, ...]
    swapped: tuple[str, ...]
    uses: TextUses


def plan_search(asked: Sequence[str], options: SearchOptions, send: Listener) -> SearchPlan:
    """Resolve every word; raises UsageError, DataError, ModelError or VariantError in one line."""
    _check_budget(options)
    if not options["sensitivity_text"]:
        raise UsageError(
            "no text to measure damage on: give --sensitivity-text FILE, other than the text of"
            " the evaluation and of the calibration, or self, which the model writes"
        )
    checkpoint = resolve_subject(options, send=send).checkpoint
    found = candidates(asked, checkpoint)
    shapes = decoder_shapes(checkpoint)
    groups = groups_of(found, shapes, {name: {} for name in found.variants})
    rest = _rest_bytes(shapes, checkpoint)
    budgets = _budgets(options, groups, rest)
    for budget in budgets:
        allocation.check_room(groups, budget)
    texts = [one.text for one in found.variants.values()]
    compared = make_plan([found.baseline.text, *texts], compared_options(options), send=ignore)
    jobs = dict(zip(["", *found.variants], compared.jobs, strict=True))
    for job in jobs.values():
        if job.refusal:
            raise VariantError(job.refusal)
    nearest = _nearest(groups, budgets, found)
    return SearchPlan(
        found,
        shapes,
        jobs,
        compared,
        rest,
        budgets,
        swapped_formats(found, words(options["swap"]), nearest),
        _uses(jobs, options),
    )


def compared_options(options: SearchOptions) -> CompareOptions:
    """The options of the comparison on held-out text: divergence, bytes, and tasks if asked for."""
    given: Mapping[str, Any] = dict(options)
    shared = {name: given[name] for name in declared(CompareOptions).keys() & given.keys()}
    only = ("text", "tasks", "memory") if options["tasks"] else ("text", "memory")
    return resolved(CompareOptions, {**shared, "only": only})


def _check_budget(options: SearchOptions) -> None:
    given = [name for name in ("bits", "bytes", "damage") if dict(options)[name]]
    if len(given) != 1:
        said = " and ".join(f"--{name}" for name in given) or "no budget"
        raise UsageError(f"{said}: give one of --bits 4.5, --bytes 90MB, --damage 0.05")


def _budgets(
    options: SearchOptions, groups: Sequence[allocation.Group], rest: int
) -> tuple[float, ...]:
    """Bytes of the quantizable weights for each budget; none where the damage is bounded.

    Raises UsageError where the rest alone is larger.
    """
    if options["bits"]:
        bits: Any = options["bits"]
        return tuple(allocation.bytes_of_bits(groups, one) for one in bits)
    sizes: Any = options["bytes"] or ()
    least = allocation.byte_range(groups)[0]
    for size in sizes:
        if size < rest + least:
            raise UsageError(
                f"--bytes {size:,.0f} is too little: what is never quantized takes {rest:,}, and"
                f" the rest {least:,} at least; give {rest + least:,} or more, or a smaller format"
            )
    return tuple(size - rest for size in sizes)


def _rest_bytes(shapes: Mapping[str, Shape], checkpoint: Checkpoint) -> int:
    """Bytes of embedding, head, norms and biases, in 16 bit."""
    import evalkit.running.preload  # noqa: F401  imports torch without its libraries' remarks

    parameters: int = sum(one.numel() for one in meta_model(checkpoint.config).parameters())
    return 2 * (parameters - sum(outputs * inputs for outputs, inputs in shapes.values()))


def _nearest(
    groups: Sequence[allocation.Group], budgets: Sequence[float], found: Candidates
) -> str:
    """The format to swap where none was named: the largest that fits the first budget."""
    order = [name for name in allocation.formats(groups) if name != UNQUANTIZED]
    fitting = [
        name for name in order if budgets and allocation.uniform(groups, name).bytes <= budgets[0]
    ]
    return fitting[-1] if fitting else order[0]


def _uses(jobs: Mapping[str, Job], options: SearchOptions) -> TextUses:
    """The texts of calibration, sensitivity and evaluation; raises DataError where they overlap."""
    uses = TextUses()
    for job in jobs.values():
        source = calibration_source(job.variant, job.checkpoint)
        if source:
            seed = calibration_seed(job.variant, options["seed"])
            uses.add(Use("calibration", source, _calibration(job), seed))
    offline = options["offline"]
    asked = words(options["sensitivity_text"])
    if SELF in asked:
        own = Use("sensitivity", SELF, seed=options["seed"])
        uses.add(own, "draw the other one with calibration_seed=1")
    files = [one for one in asked if one != SELF]
    for text in load_texts(files, limit=options["limit"], offline=offline):
        uses.add(Use("sensitivity", text.name, text), "give another --sensitivity-text")
    for text in load_texts(jobs[""].sources, limit=options["limit"], offline=offline):
        uses.add(Use("evaluation", text.name, text), "give another --text or --sensitivity-text")
    return uses


def _calibration(job: Job) -> Text | None:
    """The text that the variant of `job` is calibrated on; None for the model's own."""
    return choose_calibration(job.variant, job.checkpoint, offline=job.settings.offline)[1]
