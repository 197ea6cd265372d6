"""The damage of each module in each format: measured by swaps, or scaled by the weights' error.

To swap every format takes a map for each. For small errors the divergence grows with the square of
the error of the weights, so a format that was not swapped has the damage of one that was, times the
ratio of their squared errors, module by module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit.declaration import declared, resolved
from evalkit.errors import VariantError
from evalkit.options import SearchOptions, SensitivityOptions
from evalkit.progress import Event, Listener
from evalkit.records.sensitivity import Sensitivity
from evalkit.running.job import Job
from evalkit.running.process import run_child
from evalkit.running.quantize import make_checkpoint
from evalkit.running.search.candidates import Candidates
from evalkit.running.sensitivity.plan import CONTEXT
from evalkit.running.sensitivity.run import run_sensitivity

Damages = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Damage:
    """Nats of each module by format, the maps that were measured, and of which formats."""

    by_format: Damages
    maps: tuple[Sensitivity, ...]
    swapped: tuple[str, ...]

    @property
    def additivity(self) -> float | None:
        """The mean over the maps of the sum of all damages over that of the whole variant."""
        known = [one.additivity for one in self.maps if one.additivity is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class ErrorWork:
    """Whose weights are compared with the baseline's in one process; it pickles."""

    baseline: Job
    variants: Mapping[str, Job]
    modules: tuple[str, ...]


def damage_map(
    found: Candidates,
    swapped: Sequence[str],
    jobs: Mapping[str, Job],
    modules: Sequence[str],
    options: SearchOptions,
    send: Listener,
) -> Damage:
    """The damage of `modules` in every format of `found`, those of `swapped` by swaps.

    `jobs` are the baseline's, under "", and each format's. Raises EvalkitError where a variant
    cannot be made or exchanged.
    """
    context = options["context"] or min(CONTEXT, jobs[""].checkpoint.positions or CONTEXT)
    maps = {name: _swap(found, name, context, options, send) for name in swapped}
    by_format = {
        name: {m: piece.kl for piece in one.pieces for m in piece.modules}
        for name, one in maps.items()
    }
    if len(maps) < len(found.variants):
        errors = _errors(jobs, modules, send)
        order = list(found.variants)
        for name in order:
            if name not in maps:
                nearest = min(maps, key=lambda one: abs(order.index(one) - order.index(name)))
                by_format[name] = scaled(by_format[nearest], errors[nearest], errors[name])
    return Damage(by_format, tuple(maps.values()), tuple(maps))


def scaled(
    damage: Mapping[str, float], own: Mapping[str, float], other: Mapping[str, float]
) -> dict[str, float]:
    """The damage of modules with the squared errors `other`, from that of those with `own`."""
    return {
        module: nats * other[module] / own[module] if own.get(module) else 0.0
        for module, nats in damage.items()
        if module in other
    }


def _swap(
    found: Candidates, name: str, context: int, options: SearchOptions, send: Listener
) -> Sensitivity:
    given = dict(options)
    shared = {key: given[key] for key in declared(SensitivityOptions).keys() & given.keys()}
    asked = {
        **shared,
        "suite": None,
        "text": options["sensitivity_text"],
        "context": context,
        "tokens": options["sensitivity_tokens"],
        "baseline": found.baseline.text,
        "by": "module",
    }
    return run_sensitivity(found.variants[name].text, resolved(SensitivityOptions, asked), send)


def _errors(
    jobs: Mapping[str, Job], modules: Sequence[str], send: Listener
) -> dict[str, dict[str, float]]:
    for job in jobs.values():
        make_checkpoint(job, send)
    others = {name: job for name, job in jobs.items() if name}
    work = ErrorWork(jobs[""], others, tuple(modules))
    found: dict[str, dict[str, float]] = run_child(
        _measure_errors, work, send, gpu=jobs[""].visible
    )
    return found


def _measure_errors(work: ErrorWork, send: Listener) -> dict[str, dict[str, float]]:
    """Squared error of each module's weights by format, in the child."""
    from evalkit.models.plain_weights import PlainWeights
    from evalkit.running.sensitivity.pieces import their_weights
    from evalkit.running.session import loaded, open_variant

    found: dict[str, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        model = loaded(stack.enter_context(open_variant(work.baseline, send))).model
        for name, job in work.variants.items():
            send(Event(job.variant.label, "comparing weights"))
            with open_variant(job, send) as session:
                one = loaded(session).loaded
                weights = PlainWeights(one.model, one.formats)
                found[name] = {}
                for module in work.modules:
                    own = model.get_parameter(f"{module}.weight").detach()
                    theirs = their_weights(model, weights, f"{module}.weight")
                    error = theirs.to(own.device).float() - own.float()
                    found[name][module] = float(error.square().sum())
    return found


def swapped_formats(found: Candidates, asked: Sequence[str], nearest: str) -> tuple[str, ...]:
    """The formats to swap: those `asked` for, by any of their words, else the `nearest`.

    Raises VariantError for one that is no candidate.
    """
    by_word = {word: name for name, v in found.variants.items() for word in (v.label, v.text, name)}
    for word in asked:
        if word not in by_word:
            allowed = ", ".join(one.label for one in found.variants.values())
            raise VariantError(f"--swap {word!r} is none of the candidates: allowed are {allowed}")
    return tuple(dict.fromkeys(by_word[word] for word in asked)) or (nearest,)
