"""What two models of one architecture differ in, cut into the pieces of a damage map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from evalkit.errors import VariantError
from evalkit.models.layers import decoder_layers
from evalkit.models.plain_weights import PlainWeights
from evalkit.models.slices import same_numbers
from evalkit.records import content_hash
from evalkit.records.sensitivity import By

EMBEDDING, HEAD, CACHE = "embedding", "head", "kv_cache"
# The pass in which nothing is the variant's, and the one in which everything is.
BASELINE, WHOLE = "baseline", "whole"


@dataclass(frozen=True)
class Exchange:
    """One piece as it is exchanged: the weights `parameters`, or the KV cache (`cache`).

    `first` is the first layer that may give something else then. With `head_alone` none does.
    """

    name: str
    kind: str
    layer: int | None = None
    parameters: tuple[str, ...] = ()
    first: int = 0
    head_alone: bool = False
    cache: bool = False

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that the weights are of, or the weights that are of none."""
        return tuple(dict.fromkeys(map(unit_of, self.parameters)))

    @property
    def key(self) -> str:
        """What identifies it in the store, where a piece is known by what it exchanges."""
        if self.name in (BASELINE, WHOLE):
            return self.name
        return content_hash([sorted(self.parameters), self.cache])

    def control_key(self, seed: int) -> str:
        """The same of noise in place of its error, drawn by `seed`."""
        return f"{self.key}-control-{seed}"

    def gradient_key(self, seed: int) -> str:
        """The same of what squared gradients predict, of tokens drawn by `seed`."""
        return f"{self.key}-gradient-{seed}"


@dataclass(frozen=True)
class Differences:
    """The weights in which `variant` differs from `baseline`, a loaded model; see `differences`."""

    model: PreTrainedModel
    variant: PlainWeights
    names: tuple[str, ...]
    units: Mapping[str, Unit] = field(repr=False)

    def theirs(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The variant's weights of these names, in the baseline's layout."""
        return {name: their_weights(self.model, self.variant, name) for name in names}

    def own(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The baseline's weights of these names, not copied."""
        return {name: self.model.get_parameter(name).detach() for name in names}


@dataclass(frozen=True)
class Unit:
    """A module, or a parameter that is no module's weight: the smallest piece."""

    kind: str
    layer: int | None
    parameters: tuple[str, ...]
    first: int


def differences(
    model: PreTrainedModel,
    variant: PlainWeights,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Differences:
    """Compare all weights of `model`, the baseline, with the variant's of the same names.

    `advance` is told how many of how many were looked at. Raises VariantError where the variant is
    of another architecture.
    """
    baseline = PlainWeights(model)
    found, names = [], list(baseline)
    for done, name in enumerate(names):
        advance(done, len(names))
        theirs = their_weights(model, variant, name)
        own = baseline[name]
        if not same_numbers(own, theirs.to(device=own.device, dtype=own.dtype)):
            found.append(name)
    return Differences(model, variant, tuple(found), _units(model, found))


def their_weights(model: PreTrainedModel, variant: PlainWeights, name: str) -> Tensor:
    """The variant's weights `name` in the layout of `model`, whose layer may be transposed."""
    if name not in variant:
        raise VariantError(
            f"the variant has no weights {name}: it is not of the model's architecture"
        )
    theirs = variant[name]
    own, owner = model.get_parameter(name), model.get_submodule(name.rpartition(".")[0])
    turned = theirs.ndim > 1 and theirs.transpose(-1, -2).shape == own.shape
    if turned and (theirs.shape != own.shape or _is_turned(owner, variant, name)):
        theirs = theirs.transpose(-1, -2).contiguous()
    if theirs.shape != own.shape:
        raise VariantError(
            f"the variant's weights {name} are {tuple(theirs.shape)} and the model's"
            f" {tuple(own.shape)}: it is not of the model's architecture"
        )
    return theirs


def _is_turned(owner: nn.Module, variant: PlainWeights, name: str) -> bool:
    """Whether the layer holds (inputs, outputs), and the variant's unpacks to (outputs, inputs)."""
    return isinstance(owner, Conv1D) and not variant.is_plain(name)


def pieces_of(found: Differences, by: By, *, cache: bool) -> tuple[Exchange, ...]:
    """The pieces of a map `by` layer, module or kind; with `cache` the KV cache is one more.

    What lies in no layer is a piece of its own each: the embedding and the head, tied or not.
    """
    groups: dict[str, list[tuple[str, Unit]]] = {}
    for name, unit in found.units.items():
        groups.setdefault(_group(name, unit, by), []).append((name, unit))
    pieces = [_exchange(name, [unit for _, unit in group], by) for name, group in groups.items()]
    if cache:
        pieces.append(Exchange(CACHE, CACHE, cache=True))
    if not pieces:
        raise VariantError("the weights are the baseline's: there is nothing to exchange")
    return tuple(pieces)


def everything(pieces: Iterable[Exchange], name: str) -> Exchange:
    """All pieces exchanged at once, under the name `name`."""
    parameters = tuple(sorted({one for piece in pieces for one in piece.parameters}))
    return Exchange(name, name, parameters=parameters, cache=any(p.cache for p in pieces))


def unit_of(parameter: str) -> str:
    """The module of a weight or bias, or the name of a parameter that is neither."""
    owner, _, leaf = parameter.rpartition(".")
    return owner if leaf in ("weight", "bias") and owner else parameter


def _group(name: str, unit: Unit, by: By) -> str:
    if unit.kind in (EMBEDDING, HEAD) or (unit.layer is None and by == "layer"):
        return unit.kind
    return {"layer": f"layer {unit.layer}", "module": name, "kind": unit.kind}[by]


def _exchange(name: str, units: list[Unit], by: By) -> Exchange:
    layers = {unit.layer for unit in units}
    in_layers = None not in layers
    return Exchange(
        name=name,
        kind="layer" if by == "layer" and in_layers else units[0].kind,
        layer=layers.pop() if len(layers) == 1 else None,
        parameters=tuple(one for unit in units for one in unit.parameters),
        first=min(unit.first for unit in units),
        head_alone=all(unit.kind == HEAD for unit in units),
    )


def _units(model: PreTrainedModel, names: Iterable[str]) -> dict[str, Unit]:
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(unit_of(name), []).append(name)
    return {name: _unit(model, name, parameters) for name, parameters in grouped.items()}


def _unit(model: PreTrainedModel, name: str, parameters: list[str]) -> Unit:
    """Where a unit lies. A module that several layers share counts from the first of them."""
    module = model.get_submodule(parameters[0].rpartition(".")[0])
    holding = [
        index
        for index, layer in enumerate(decoder_layers(model))
        if any(inner is module for inner in layer.modules())
    ]
    if not holding:
        if module is model.get_output_embeddings():
            return Unit(HEAD, None, tuple(parameters), 0)
        kind = EMBEDDING if module is model.get_input_embeddings() else name
        return Unit(kind, None, tuple(parameters), 0)
    layer = decoder_layers(model)[holding[0]]
    inside = next(full for full, one in model.named_modules() if one is layer)
    kind = name.removeprefix(f"{inside}.")
    alone = holding[0] if len(holding) == 1 else None
    return Unit(kind, alone, tuple(parameters), holding[0])
