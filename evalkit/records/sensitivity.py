"""The damage map: how much each piece of a variant alone changes what the model predicts.

A piece is a layer, a module, or all modules of a kind; `evalkit.analysis.sensitivity` makes the
record of raw values, `evalkit.view.sensitivity` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from evalkit.displayable import Displayable, display
from evalkit.records.decomposition import Divergence

SCHEMA = "evalkit.sensitivity/1"

By = Literal["layer", "module", "kind"]
# The piece's weights alone put into the baseline, or the baseline's put back into the variant.
Direction = Literal["swap", "restore"]
Method = Literal["swaps", "gradient"]


@dataclass(frozen=True)
class Piece:
    """One piece of the variant and its damage: mean KL divergence in nats a token.

    `name` is unique in its map: "layer 3", a module's full name in the baseline, a kind such as
    "mlp.down_proj", or "embedding", "head", "kv_cache". `kind` is that of its module ("layer" for
    a whole one), `layer` its number from 0, None for what lies in none or in several. `modules` are
    the full names of the modules whose weights it exchanges, or of single parameters where these
    are no module's weight, as fused experts are.

    `kl` has the bounds `low` and `high` (95 %), which are the noise floor away where so few tokens
    allow no interval. Restored, it is how much the whole variant's divergence falls, and may be
    negative. `perplexity_delta` has the same sense and a sign; None where the divergence is only
    predicted. `bytes` is what the variant stores
    of the piece, `bytes_saved` what the baseline stores more; None where they are not known.

    `tokens` says on how many the piece was measured. `control` is the divergence that Gaussian
    noise of the same size per token causes in place of the piece's error, `gradient` the one that
    squared gradients predict; None where they were not measured.
    """

    name: str
    kind: str
    layer: int | None
    kl: float
    low: float
    high: float
    perplexity_delta: float | None
    bytes: int | None
    bytes_saved: int | None
    modules: tuple[str, ...] = ()
    tokens: int = 0
    control: float | None = None
    gradient: float | None = None

    @property
    def damage_per_byte(self) -> float | None:
        """Nats a token for each byte that the piece saves; None where it saves none."""
        return self.kl / self.bytes_saved if self.bytes_saved and self.bytes_saved > 0 else None


@dataclass(frozen=True)
class Sensitivity(Displayable):
    """The damage map of one `variant` against the baseline, most harmful piece first.

    `whole` is the divergence of all pieces together, `additivity` the sum over the pieces divided
    by it, on the same tokens; None where pieces are missing or the whole is within the noise.
    `noise_floor` is the divergence that another order of sums alone gives. `suite` identifies the
    texts by content, `texts` names them; `claim` says of what the intervals speak.
    `rank_correlation` is Spearman's, of the gradient's prediction and the swaps that were made.
    `unmeasured` names pieces for which no time was left, and the map is not `complete` where more
    time would have measured more. `identity` is that of the model's content, `id` that of
    the map in the store.
    """

    model: str
    baseline: str
    variant: str
    by: By
    direction: Direction
    method: Method
    tokens: int
    whole: Divergence | None
    additivity: float | None
    noise_floor: float | None
    pieces: tuple[Piece, ...]
    baseline_perplexity: float = 0.0
    suite: str = ""
    texts: tuple[str, ...] = ()
    convention: str = ""
    claim: str = ""
    rank_correlation: float | None = None
    unmeasured: tuple[str, ...] = ()
    complete: bool = True
    identity: str = ""
    notes: tuple[str, ...] = ()
    id: str = ""

    @property
    def is_final(self) -> bool:
        """Whether measuring again would change nothing: a prediction is held against new swaps."""
        return self.complete and self.method == "swaps"

    def piece(self, name: str) -> Piece:
        """The piece called `name`; raises KeyError for none."""
        found = {piece.name: piece for piece in self.pieces}
        return found[name]

    def frame(self) -> Any:
        """The pieces as a pandas DataFrame with numbers, one row each, their names as index."""
        return display().pieces_frame(self)
