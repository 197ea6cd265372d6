"""How many tokens a model can read."""

from __future__ import annotations

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from evalkit.models.context import context_limit


@pytest.mark.parametrize(
    ("model_type", "limit"), [("llama", 2048), ("xlnet", None), ("mamba", None)]
)
def test_no_limit_is_none(model_type: str, limit: int | None) -> None:
    assert context_limit(CONFIG_MAPPING[model_type]()) == limit
