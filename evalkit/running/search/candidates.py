"""The formats that a mix may choose from: those of the named variants that one container holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit import plugins
from evalkit.analysis.allocation import Candidate, Group
from evalkit.analysis.architecture import Linear
from evalkit.analysis.footprint import linear_bytes
from evalkit.analysis.fused import fused_groups
from evalkit.backends import PLAN, format_words, parse_variant, settled, spec_of
from evalkit.errors import UsageError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.shapes import Shape
from evalkit.records import MIXED, UNQUANTIZED, Variant

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_PLAIN = "transformers"


@dataclass(frozen=True)
class Candidates:
    """Formats of one container by what a plan calls them, and the variant of each alone.

    `shared` are the options of a mix beside its plan, as they stand behind a comma.
    """

    baseline: Variant
    backend: str
    variants: Mapping[str, Variant]
    shared: str = ""

    def mix(self, plan: str) -> str:
        """The canonical form of the mix of the plan in the file `plan`."""
        return parse_variant(f"{MIXED}@{self.backend},{PLAN.name}={plan}{self.shared}").text


def candidates(asked: Sequence[str], checkpoint: Checkpoint) -> Candidates:
    """The candidates among the variants `asked` for, of which one may be the baseline.

    Raises UsageError where there is no quantized one, where no container holds them all, or where
    they differ in more than what may differ from module to module.
    """
    found = [settled(checkpoint, parse_variant(word))[0] for word in asked]
    plain = [one for one in found if one.backend == _PLAIN]
    packed = [one for one in found if one.backend != _PLAIN]
    if len(plain) > 1:
        raise UsageError(f"{plain[0].label} and {plain[1].label}: name one baseline")
    if not packed:
        raise UsageError("no quantized variant to mix: name at least one, such as int4@gptq")
    backend = _container(packed)
    variants = {format_words(one): one for one in packed}
    mixes = {*spec_of(backend).mixes}
    shared = {tuple(one for one in v.options if one[0] not in mixes) for v in packed}
    if len(shared) > 1:
        raise UsageError(
            f"{packed[0].label} and {packed[1].label} differ in more than"
            f" {', '.join(sorted(mixes))}: give all of them the other options alike"
        )
    words = [word for word in packed[0].text.split(",")[1:] if word.partition("=")[0] not in mixes]
    return Candidates(
        plain[0] if plain else parse_variant("fp16"),
        backend,
        variants,
        "".join(f",{word}" for word in words),
    )


def _container(packed: Sequence[Variant]) -> str:
    names = [name for name in plugins.names("backends") if spec_of(name).mixes]
    allowed = f"name formats of one of {', '.join(names)}"
    for one in packed:
        if one.backend not in names or one.precision == MIXED:
            raise UsageError(f"{one.text} is no format of a module beside others: {allowed}")
        if one.backend != packed[0].backend:
            raise UsageError(
                f"{packed[0].text} and {one.text} are held in different containers: {allowed}"
            )
    return packed[0].backend


def groups_of(
    found: Candidates,
    shapes: Mapping[str, Shape],
    damages: Mapping[str, Mapping[str, float]],
) -> list[Group]:
    """The modules `shapes` as they move together, each with the formats that its widths allow.

    `damages` are nats of each module by format; unquantized it has none.
    """
    groups = []
    for name, modules in fused_groups(shapes).items():
        own = {module: shapes[module] for module in modules}
        choices = [
            Candidate(
                words, _bytes(found, variant, own), sum(damages[words].get(m, 0.0) for m in modules)
            )
            for words, variant in found.variants.items()
            if not any(_misfit(found, variant, shape) for shape in own.values())
        ]
        weights = sum(outputs * inputs for outputs, inputs in own.values())
        choices.append(Candidate(UNQUANTIZED, 2 * weights, 0.0))
        layer = _LAYER.search(name)
        groups.append(
            Group(name, modules, weights, tuple(choices), int(layer[1]) if layer else None)
        )
    return groups


def module_bytes(found: Candidates, words: str, shape: Shape) -> int:
    """Bytes of one module in the format `words`, scales included."""
    if words == UNQUANTIZED:
        return 2 * shape[0] * shape[1]
    return _bytes(found, found.variants[words], {"": shape})


def _bytes(found: Candidates, variant: Variant, shapes: Mapping[str, Shape]) -> int:
    scheme = plugins.load("backends", found.backend).scheme(variant)
    sizes = (linear_bytes(Linear(name, *shape), scheme).total for name, shape in shapes.items())
    return round(sum(sizes))


def _misfit(found: Candidates, variant: Variant, shape: Shape) -> bool:
    return bool(plugins.load("backends", found.backend).misfit(variant, shape))
