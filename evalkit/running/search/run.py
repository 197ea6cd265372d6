"""`evalkit search`: map, allocate, write the plans, make and compare the mixes, judge them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.analysis import allocation
from evalkit.analysis.allocation import Allocation, Group
from evalkit.analysis.search import Evidence, held_out, with_verdicts
from evalkit.backends import keeps, spec_of
from evalkit.declaration import command_line, words
from evalkit.options import SearchOptions
from evalkit.progress import Event, Listener
from evalkit.records import UNQUANTIZED, Comparison, Mix, Row, content_hash, to_json
from evalkit.records.search import (
    SCHEMA,
    FoundMix,
    FrontierPoint,
    PlannedModule,
    RivalKind,
    Search,
)
from evalkit.running.calibration import SELF
from evalkit.running.compare.plan import ComparePlan, make_plan
from evalkit.running.compare.run import run_plan
from evalkit.running.job import Job
from evalkit.running.process import run_child
from evalkit.running.search.candidates import groups_of, module_bytes
from evalkit.running.search.damage import Damage, damage_map
from evalkit.running.search.own_text import own_text_file
from evalkit.running.search.plan import SearchPlan, compared_options, plan_search
from evalkit.store.files import make_directory, write_json
from evalkit.store.store import Store

RANDOM_ALLOCATIONS = 5


@dataclass(frozen=True)
class Contest:
    """The mix of one budget with its rivals of the same bytes, as variants.

    `words` are those of the mix, `rivals` kind, name and words of each other.
    """

    budget: float
    mix: Allocation
    words: str
    plan_file: Path
    rivals: tuple[tuple[RivalKind, str, str], ...]


def run_search(asked: Sequence[str], options: SearchOptions, listener: Listener) -> Search:
    """The best mixes of the variants `asked` for, judged on held-out text.

    Raises EvalkitError in one line where the search cannot be made; a mix that fails later says so.
    """
    plan = plan_search(asked, options, listener)
    found = plan.found
    told = f"damage is measured with {', '.join(plan.swapped)}"
    others = [name for name in found.variants if name not in plan.swapped]
    if others:
        told += f"; that of {', '.join(others)} is scaled by the error of the weights"
    listener(Event("evalkit", "", message=told))
    options = _with_own_text(plan, options, listener)
    damage = damage_map(found, plan.swapped, plan.jobs, list(plan.shapes), options, listener)
    groups = groups_of(found, plan.shapes, damage.by_format)
    folder = _folder(plan, damage, options)
    contests = [_contest(plan, groups, folder, mix) for mix in _mixes(groups, plan, options)]
    compared = _compare(plan, contests, options, listener)
    mixes, evidences = zip(
        *(_found_mix(plan, groups, damage, one, *compared, listener) for one in contests),
        strict=True,
    )
    search = _search(plan, groups, damage, with_verdicts(mixes, evidences), options)
    search = dataclasses.replace(
        search, command=command_line("search", asked, SearchOptions, {**options, "fresh": False})
    )
    write_json(folder / "search.json", {"schema": SCHEMA, "search": to_json(search)})
    return search


def _with_own_text(plan: SearchPlan, options: SearchOptions, listener: Listener) -> SearchOptions:
    """The options with what the model writes as a file, where `self` is a text of them."""
    asked = words(options["sensitivity_text"])
    if SELF not in asked:
        return options
    tokens = options["sensitivity_tokens"]
    file = own_text_file(plan.jobs[""], options["seed"], tokens, listener)
    texts = tuple(str(file) if one == SELF else one for one in asked)
    return {**options, "sensitivity_text": texts}


def _mixes(
    groups: Sequence[Group], plan: SearchPlan, options: SearchOptions
) -> list[tuple[float, Allocation]]:
    """Each budget in bytes of the quantizable weights, and its best allocation."""
    if options["damage"]:
        found = allocation.least_bytes(groups, options["damage"])
        return [(float(found.bytes), found)]
    return [(budget, allocation.least_damage(groups, budget)) for budget in plan.budgets]


def _folder(plan: SearchPlan, damage: Damage, options: SearchOptions) -> Path:
    """Where plans and the record of this search are kept."""
    name = content_hash(
        [
            plan.compared.model.identity,
            [one.text for one in plan.found.variants.values()],
            [one.id for one in damage.maps],
            [*plan.budgets, options["damage"]],
            plan.compared.suite.id,
            options["seed"],
        ]
    )
    return make_directory(plan.compared.store / "searches" / name)


def _contest(
    plan: SearchPlan, groups: Sequence[Group], folder: Path, found: tuple[float, Allocation]
) -> Contest:
    """Write the plans of the mix and of what takes the same bytes."""
    budget, mix = found
    bits = 8 * mix.bytes / sum(group.weights for group in groups)
    size = f"{bits:.2f}-bits"
    file = _write(folder / f"mix-{size}.yaml", groups, mix)
    heuristic = allocation.head_and_tail(groups, mix.bytes)
    outer = _variant(plan, groups, folder, heuristic, f"head-and-tail-{size}")
    made: list[tuple[RivalKind, str, str]] = [("head and tail", "head and tail", outer)]
    for number in range(RANDOM_ALLOCATIONS):
        drawn = allocation.at_random(groups, mix.bytes, number)
        name = f"random-{number + 1}-{size}"
        made.append(("random", f"random {number + 1}", _variant(plan, groups, folder, drawn, name)))
    kinds: tuple[RivalKind, RivalKind] = ("smaller", "larger")
    for kind, form in zip(kinds, allocation.neighbours(groups, mix.bytes), strict=True):
        if form is not None and form != UNQUANTIZED:
            made.append((kind, form, plan.found.variants[form].text))
    return Contest(budget, mix, plan.found.mix(str(file)), file, tuple(made))


def _variant(
    plan: SearchPlan, groups: Sequence[Group], folder: Path, one: Allocation, name: str
) -> str:
    return plan.found.mix(str(_write(folder / f"{name}.yaml", groups, one)))


def _write(file: Path, groups: Sequence[Group], one: Allocation) -> Path:
    file.write_text(Mix.of(_formats(groups, one)).text, encoding="utf-8")
    return file


def _formats(groups: Sequence[Group], one: Allocation) -> dict[str, str]:
    chosen = zip(groups, one.chosen, strict=True)
    return {module: form.format for group, form in chosen for module in group.modules}


def _compare(
    plan: SearchPlan, contests: Sequence[Contest], options: SearchOptions, listener: Listener
) -> tuple[ComparePlan, Comparison]:
    """All mixes and rivals beside the baseline, on text that nothing was searched on."""
    asked = [one.words for one in contests]
    asked += [word for one in contests for _, _, word in one.rivals]
    asked = list(dict.fromkeys([plan.found.baseline.text, *asked]))
    compared = make_plan(asked, compared_options(options), send=listener)
    return compared, run_plan(compared, listener, fresh=options["fresh"])


def _found_mix(
    plan: SearchPlan,
    groups: Sequence[Group],
    damage: Damage,
    contest: Contest,
    compared: ComparePlan,
    comparison: Comparison,
    listener: Listener,
) -> tuple[FoundMix, Evidence | None]:
    rows: Mapping[str, Row] = {row.variant.text: row for row in comparison.rows}
    row = rows[contest.words]
    labels = {text: one.variant.label for text, one in rows.items()}
    rivals, evidence = held_out(
        comparison,
        row.variant.label,
        [(kind, name, labels[text]) for kind, name, text in contest.rivals],
    )
    job = next(one for one in compared.jobs if one.variant.text == contest.words)
    kl, size = row.metrics.get("kl_divergence_mean"), row.metrics.get("weight_bytes")
    total = contest.mix.bytes + plan.rest_bytes
    mix = FoundMix(
        budget_bytes=round(contest.budget) + plan.rest_bytes,
        bytes=int(size.value) if size and size.value else total,
        bits=8 * contest.mix.bytes / sum(group.weights for group in groups),
        plan=_planned(plan, groups, contest.mix),
        predicted_kl=contest.mix.damage / (damage.additivity or 1.0),
        variant=contest.words,
        plan_file=str(contest.plan_file),
        checkpoint=_checkpoint(job, listener) if row.status == "ok" else "",
        loaders=spec_of(plan.found.backend).loaders,
        kl=kl.value if kl else None,
        low=kl.low if kl else None,
        high=kl.high if kl else None,
        held_out=rivals,
        message="" if row.status == "ok" else row.message or row.status,
    )
    return mix, evidence


def _planned(
    plan: SearchPlan, groups: Sequence[Group], mix: Allocation
) -> tuple[PlannedModule, ...]:
    formats = _formats(groups, mix)
    return tuple(
        PlannedModule(name, formats[name], module_bytes(plan.found, formats[name], shape))
        for name, shape in plan.shapes.items()
    )


def _checkpoint(job: Job, listener: Listener) -> str:
    """The directory of the mix's checkpoint; one that is converted on loading is written now."""
    from evalkit.backends._artifacts import artifact_name

    if not keeps(job.variant):
        run_child(_write_checkpoint, job, listener, gpu=job.visible)
    name = artifact_name(job.checkpoint, job.variant, job.calibration, job.device)
    return str(Store(job.store).artifacts() / name)


def _write_checkpoint(job: Job, send: Listener) -> None:
    from evalkit.backends._artifacts import make_artifact

    make_artifact(
        Store(job.store).artifacts(),
        job.checkpoint,
        job.variant,
        job.device,
        allow_pickle=job.settings.allow_pickle,
        trust_remote_code=job.settings.trust_remote_code,
        listener=send,
    )


def _search(
    plan: SearchPlan,
    groups: Sequence[Group],
    damage: Damage,
    mixes: tuple[FoundMix, ...],
    options: SearchOptions,
) -> Search:
    weights = sum(group.weights for group in groups)
    share = damage.additivity or 1.0

    def point(one: Allocation, name: str = "") -> FrontierPoint:
        return FrontierPoint(
            one.bytes + plan.rest_bytes, 8 * one.bytes / weights, one.damage / share, name
        )

    best = [point(one) for one in allocation.frontier(groups)] if options["frontier"] else []
    uniform = [point(allocation.uniform(groups, name), name) for name in plan.found.variants]
    return Search(
        model=plan.compared.model,
        baseline=plan.found.baseline.label,
        backend=plan.found.backend,
        formats=tuple(plan.found.variants),
        swapped=damage.swapped,
        mixes=mixes,
        frontier=(*best, *uniform),
        additivity=damage.additivity,
        sensitivity_tokens=sum(one.tokens for one in damage.maps),
        calibration_texts=plan.uses.names("calibration"),
        sensitivity_texts=plan.uses.names("sensitivity"),
        evaluation_texts=plan.uses.names("evaluation"),
        environment=plan.compared.environment,
        notes=plan.compared.notes,
        store=str(plan.compared.store),
    )
