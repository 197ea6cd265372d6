"""The best mix of formats under a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from evalkit.declaration import documented, resolved
from evalkit.options import SearchOptions
from evalkit.progress import Listener, listening

if TYPE_CHECKING:
    from evalkit.records.search import Search


@documented(SearchOptions)
def search(
    *variants: str, progress: Listener | None = None, **options: Unpack[SearchOptions]
) -> Search:
    """Search the mix of the formats `variants` that loses least under a budget, and judge it.

    The formats are of one backend, beside the baseline where it is named. Their damage is measured
    module by module on `sensitivity_text`; each budget of `bits` or `bytes` gets its best mix as a
    checkpoint, which is compared on `text` with what the same bytes buy without a search.

    Raises UsageError, DataError, ModelError or VariantError before anything starts: for a budget
    that no mix keeps within, formats that no container holds, texts that overlap.
    """
    from evalkit.running.search.run import run_search

    given = resolved(SearchOptions, options)
    with listening(progress) as listener:
        return run_search([str(v) for v in variants], given, listener)
