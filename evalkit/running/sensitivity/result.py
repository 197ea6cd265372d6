"""The damage map of what was measured: raw values become pieces with intervals, worst first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evalkit.analysis import sensitivity as statistics
from evalkit.analysis.summaries import Floats, TokenTable
from evalkit.errors import VariantError
from evalkit.models.plain_weights import PlainWeights
from evalkit.records import Claim
from evalkit.records.decomposition import Divergence
from evalkit.records.sensitivity import Piece, Sensitivity
from evalkit.running.sensitivity.pieces import BASELINE, WHOLE, Exchange, unit_of
from evalkit.running.sensitivity.plan import SensitivityWork
from evalkit.running.sensitivity.values import Values


@dataclass(frozen=True)
class Bytes:
    """Stored bytes of the baseline's and the variant's tensors by full name.

    None where a file holds other tensors than what was unpacked from it.
    """

    own: Mapping[str, int] | None
    theirs: Mapping[str, int] | None
    weights: PlainWeights

    def of(self, piece: Exchange) -> tuple[int | None, int | None]:
        """Bytes that the variant stores of `piece`, and how many more the baseline does."""
        if self.own is None or self.theirs is None or piece.cache:
            return None, None
        own = _sum(self.own, piece.modules)
        names = (part for name in piece.parameters for part in self.weights.stored_as(name))
        theirs = _sum(self.theirs, set(map(unit_of, names)))
        return theirs, own - theirs


@dataclass(frozen=True)
class Found:
    """What is known of a map: its pieces, their values of the windows `chosen`, and their bytes."""

    work: SensitivityWork
    pieces: tuple[Exchange, ...]
    bytes: Bytes
    values: Values
    chosen: frozenset[int]

    def done(self, piece: Exchange) -> frozenset[int]:
        """The chosen windows on which `piece` was measured."""
        return self.chosen & self.values.done(piece.key)

    def damage(self, piece: Exchange, windows: Collection[int]) -> Floats:
        """The damage of `piece` over each unit of the `windows`."""
        whole = self.values.table(WHOLE, windows) if self._restores else None
        return statistics.damage_sums(self.values.table(piece.key, windows), whole)

    def perplexity_delta(self, piece: Exchange, windows: Collection[int]) -> float:
        """How much the piece raises perplexity over the `windows`."""
        of, against = (WHOLE, piece.key) if self._restores else (piece.key, BASELINE)
        return statistics.perplexity_change(
            self.values.table(of, windows), self.values.table(against, windows)
        )

    @cached_property
    def everywhere(self) -> frozenset[int]:
        """The windows on which both the whole and the baseline were measured."""
        return self.chosen & self.values.done(WHOLE) & self.values.done(BASELINE)

    @property
    def _restores(self) -> bool:
        return self.work.direction == "restore"


def sensitivity(found: Found, notes: tuple[str, ...], *, complete: bool) -> Sensitivity:
    """The damage map, `complete` or not; raises VariantError where nothing was measured."""
    values = found.values
    measured = [piece for piece in found.pieces if found.done(piece)]
    if not measured or not found.everywhere:
        raise VariantError(
            "the time was up before any piece was measured: give more --seconds, or fewer --tokens"
        )
    baseline = values.table(BASELINE, found.everywhere)
    noise = _noise(baseline)
    pieces = [_piece(found, piece, noise) for piece in measured]
    unmeasured = tuple(one.name for one in found.pieces if one not in measured)
    return _map(
        found,
        method="swaps",
        tokens=_tokens(baseline),
        whole=_whole(found, noise),
        additivity=None if unmeasured else _additivity(found, noise),
        noise_floor=noise,
        pieces=_worst_first(pieces),
        baseline_perplexity=statistics.perplexity(baseline),
        claim=baseline.units(None).claim.value,
        rank_correlation=_rank_correlation(pieces),
        unmeasured=unmeasured,
        complete=complete,
        notes=notes,
    )


def _map(found: Found, **known: Any) -> Sensitivity:
    """A map with what both methods say alike."""
    work = found.work
    suite = work.part.run.suite
    return Sensitivity(
        model=work.baseline.model.name,
        baseline=work.baseline.variant.label,
        variant=work.variant.variant.label,
        by=work.by,
        direction=work.direction,
        suite=suite.id,
        texts=tuple(text.name for text in suite.texts),
        convention=f"{suite.convention}, context {suite.context}",
        identity=work.baseline.model.identity,
        id=work.id,
        **known,
    )


def _piece(found: Found, piece: Exchange, noise: float) -> Piece:
    windows = found.done(piece)
    table = found.values.table(piece.key, windows)
    mean = statistics.mean_divergence(table, found.damage(piece, windows), noise)
    stored, saved = found.bytes.of(piece)
    return Piece(
        name=piece.name,
        kind=piece.kind,
        layer=piece.layer,
        kl=mean.estimate,
        low=mean.low,
        high=mean.high,
        perplexity_delta=found.perplexity_delta(piece, windows),
        bytes=stored,
        bytes_saved=saved,
        modules=piece.modules,
        tokens=_tokens(table),
        control=_control(found, piece),
        gradient=_gradient(found, piece),
    )


def _whole(found: Found, noise: float) -> Divergence:
    table = found.values.table(WHOLE, found.everywhere)
    mean = statistics.mean_divergence(table, statistics.unit_sums(table), noise)
    return Divergence(mean.estimate, mean.low, mean.high)


def _additivity(found: Found, noise: float) -> float | None:
    """Of the windows on which all pieces were measured."""
    common = found.everywhere.intersection(*(found.done(piece) for piece in found.pieces))
    if not common:
        return None
    whole = found.values.table(WHOLE, common)
    tokens = _tokens(whole)
    parts = [float(found.damage(piece, common).sum()) / tokens for piece in found.pieces]
    return statistics.additivity(parts, _mean_divergence(whole), noise)


def _control(found: Found, piece: Exchange) -> float | None:
    key = piece.control_key(found.work.baseline.seed)
    windows = found.chosen & found.values.done(key)
    return _mean_divergence(found.values.table(key, windows)) if windows else None


def _gradient(found: Found, piece: Exchange) -> float | None:
    """The divergence that squared gradients predict; None where they were not measured."""
    key = piece.gradient_key(found.work.baseline.seed)
    windows = found.chosen & found.values.done(key)
    if not windows:
        return None
    sums, tokens = found.values.of_windows(key, "predicted", windows)
    return float(sums.sum()) / float(tokens.sum())


def _rank_correlation(pieces: Collection[Piece]) -> float | None:
    both = [(one.kl, one.gradient) for one in pieces if one.gradient is not None]
    return statistics.rank_correlation([kl for kl, _ in both], [other for _, other in both])


def _worst_first(pieces: Collection[Piece]) -> tuple[Piece, ...]:
    return tuple(sorted(pieces, key=lambda piece: -piece.kl))


def _noise(baseline: TokenTable) -> float:
    return abs(_mean_divergence(baseline))


def _mean_divergence(table: TokenTable) -> float:
    return float(table.windows["sum_kl"].sum()) / _tokens(table)


def _tokens(table: TokenTable) -> int:
    return int(table.windows["scored"].sum())


def _sum(sizes: Mapping[str, int], units: Collection[str]) -> int:
    """Bytes of the tensors that are of one of `units`, modules or parameters."""
    return sum(
        size
        for name, size in sizes.items()
        if any(name == unit or name.startswith(f"{unit}.") for unit in units)
    )


def gradient_map(found: Found, notes: tuple[str, ...]) -> Sensitivity:
    """The map that squared gradients predict, with its rank correlation to swaps in the store."""
    weights = [piece for piece in found.pieces if not piece.cache]
    pieces = [_predicted(found, piece) for piece in weights]
    swapped = [(found.done(one), one, piece) for one, piece in zip(weights, pieces, strict=True)]
    pairs = [(_mean(found, one, windows), piece.kl) for windows, one, piece in swapped if windows]
    return _map(
        found,
        method="gradient",
        tokens=max(piece.tokens for piece in pieces),
        whole=None,
        additivity=None,
        noise_floor=None,
        pieces=_worst_first(pieces),
        claim=Claim.DOCUMENTS.value,
        rank_correlation=statistics.rank_correlation(*([p[i] for p in pairs] for i in (0, 1))),
        unmeasured=tuple(piece.name for piece in found.pieces if piece.cache),
        notes=notes,
    )


def _predicted(found: Found, piece: Exchange) -> Piece:
    key = piece.gradient_key(found.work.baseline.seed)
    windows = found.chosen & found.values.done(key)
    sums, tokens = found.values.of_windows(key, "predicted", windows)
    mean = statistics.mean_of_windows(sums, tokens)
    stored, saved = found.bytes.of(piece)
    return Piece(
        name=piece.name,
        kind=piece.kind,
        layer=piece.layer,
        kl=mean.estimate,
        low=mean.low,
        high=mean.high,
        perplexity_delta=None,
        bytes=stored,
        bytes_saved=saved,
        modules=piece.modules,
        tokens=int(tokens.sum()),
        gradient=mean.estimate,
    )


def _mean(found: Found, piece: Exchange, windows: Collection[int]) -> float:
    return _mean_divergence(found.values.table(piece.key, windows))
