"""From options to work: the baseline, the variant, the text, and the keys of what is measured.

VARIANT is a variant as `compare` knows them, or a plain directory of the same architecture with
other weights. Nothing is loaded here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

from evalkit.backends import cache_format, parse_variant, spec_of
from evalkit.declaration import declared, resolved
from evalkit.errors import ModelError, UsageError, VariantError
from evalkit.models.resolve import resolve_config, resolve_model
from evalkit.options import CompareOptions, SensitivityOptions
from evalkit.progress import Listener
from evalkit.records import Model, Variant, content_hash
from evalkit.records.sensitivity import By, Direction
from evalkit.running.compare.plan import make_plan
from evalkit.running.job import Job, Part
from evalkit.running.keys import variant_key

SENSITIVITY_VERSION = 1
# Long windows tell no more of a piece, and a batch is the step in which text is spent.
CONTEXT = 512


@dataclass(frozen=True)
class SensitivityWork:
    """What a process measures: it pickles, and nothing is open.

    `key` identifies the raw values (baseline, variant, text, direction), `id` the map made of them.
    `share` (number, of how many) is a share of the pieces that another process measures.
    """

    baseline: Job
    variant: Job
    part: Part
    options: SensitivityOptions
    by: By
    direction: Direction
    key: str
    id: str
    share: tuple[int, int] | None = None

    @property
    def claim(self) -> str:
        """What a process that measures it holds, so that no other does the same."""
        return "-".join([self.key, *map(str, self.share or ())])

    @property
    def has_cache(self) -> bool:
        """Whether the variant's KV cache is a piece."""
        return cache_format(self.variant.variant) is not None


def plan_sensitivity(word: str, options: SensitivityOptions, send: Listener) -> SensitivityWork:
    """The work for one variant; raises UsageError, DataError, ModelError or VariantError."""
    parsed, directory = parse_variant(word), _plain_directory(word, options)
    baseline = parse_variant(options["baseline"])
    if any(spec_of(one).served for one in (parsed, baseline)):
        raise UsageError("a server's weights cannot be exchanged: give variants that load here")
    if baseline.text == parsed.text:
        raise UsageError(f"{word} is the baseline: name a variant with other weights")
    asked = (options["baseline"],) if directory else (options["baseline"], word)
    plan = make_plan(asked, _compared(options), send=send)
    first, second = plan.jobs[0], plan.jobs[-1]
    if directory:
        second = _directory_job(first, parsed, word)
    for job in (first, second):
        if job.refusal:
            raise VariantError(job.refusal)
    part = next((one for one in first.parts if one.kind == "texts"), None)
    if part is None:
        raise UsageError("the suite has no text to measure on: give --text FILE")
    key = content_hash(
        [SENSITIVITY_VERSION, first.reference, variant_key(second), options["direction"]]
    )
    shape = [
        options["by"],
        options["method"],
        options["tokens"],
        options["control"],
        options["seed"],
    ]
    return SensitivityWork(
        first,
        second,
        part,
        options,
        cast(By, options["by"]),
        cast(Direction, options["direction"]),
        key,
        content_hash([key, *shape]),
    )


def _compared(options: SensitivityOptions) -> CompareOptions:
    """The options of a comparison of the same variants on the same texts."""
    given = dict(options)
    shared = {name: given[name] for name in declared(CompareOptions).keys() & given.keys()}
    if not given["suite"] and not given["context"]:
        shared["context"] = CONTEXT
    return resolved(CompareOptions, {**shared, "only": ("text",)})


def _plain_directory(word: str, options: SensitivityOptions) -> bool:
    """Whether `word` names a checkpoint that is not quantized."""
    variant = parse_variant(word)
    if variant.backend != "checkpoint" or variant.checkpoint is None:
        return False
    try:
        config = resolve_config(variant.checkpoint, offline=options["offline"]).config
    except ModelError as error:
        raise VariantError(str(error)) from error
    return not config.get("quantization_config")


def _directory_job(baseline: Job, variant: Variant, word: str) -> Job:
    """The job of other weights, loaded just as the baseline's."""
    settings = baseline.settings
    other = resolve_model(
        str(variant.checkpoint),
        offline=settings.offline,
        allow_pickle=settings.allow_pickle,
        trust_remote_code=settings.trust_remote_code,
        hash_cache=baseline.store / "hashes.json",
    )
    if other.architecture != baseline.checkpoint.architecture:
        raise VariantError(
            f"{word} is a {other.architecture} and {baseline.model.name} a"
            f" {baseline.checkpoint.architecture}: give a directory of the same architecture"
        )
    model = Model(word, other.identity.weights, architecture=other.architecture)
    return dataclasses.replace(
        baseline,
        model=model,
        checkpoint=other,
        variant=dataclasses.replace(baseline.variant, asked=word),
        is_baseline=False,
        parts=(),
    )
