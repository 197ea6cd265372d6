"""The damage map: where a variant loses what it loses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from evalkit.declaration import documented, resolved
from evalkit.options import SensitivityOptions
from evalkit.progress import Listener, listening

if TYPE_CHECKING:
    from evalkit.records.sensitivity import Sensitivity


@documented(SensitivityOptions)
def sensitivity(
    variant: str,
    *,
    progress: Listener | None = None,
    **options: Unpack[SensitivityOptions],
) -> Sensitivity:
    """The divergence that each layer, module or kind of module of `variant` alone causes.

    The variant's own weights, unpacked from its checkpoint, are put into the baseline piece by
    piece (with `direction` "restore" the baseline's into the variant). `variant` may also be a
    plain directory of the same architecture with other weights. What the store has is not measured
    again, so a call that was stopped goes on where it ended.

    Raises UsageError, DataError or ModelError before anything starts, VariantError where the
    variant cannot be made, loaded or unpacked, InterruptedWorkError after Ctrl-C.
    """
    from evalkit.running.sensitivity.run import run_sensitivity

    given = resolved(SensitivityOptions, options)
    with listening(progress) as listener:
        return run_sensitivity(variant, given, listener)
