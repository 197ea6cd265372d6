"""How many tokens a model can read."""

from __future__ import annotations

from typing import Any


def context_limit(config: Any) -> int | None:
    """Positions of the text model of `config`; None where there is no limit (XLNet says -1)."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None
