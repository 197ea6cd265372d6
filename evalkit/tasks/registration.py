"""Making a model known to lm-eval, whose registry has no plugin mechanism of its own."""

from __future__ import annotations

import logging


def register_model(name: str, target: str) -> None:
    """Let `lm_eval --model NAME` find the class `target` ("module:Class").

    A registry of another shape is a warning: this runs while torch is imported, which an error
    would end.
    """
    try:
        # lm-eval registers its own models only while the registry is empty.
        import lm_eval.models  # noqa: F401
        from lm_eval.api.registry import model_registry

        if name not in model_registry:
            model_registry.register(name, target=target)
    except Exception as error:
        logging.getLogger(__name__).warning("lm-eval does not know evalkit: %s", error)
