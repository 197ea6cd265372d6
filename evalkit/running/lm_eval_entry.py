"""Makes `--model evalkit` known to lm-eval, whose registry has no plugin mechanism of its own.

Named as an entry point of the group `torch.backends`, which torch calls whenever it is imported.
lm-eval is imported before torch by its own command line, so this is the moment to register.
Nothing is imported for programs that are not lm-eval.
"""

from __future__ import annotations

import logging
import sys

NAME = "evalkit"
TARGET = "evalkit.running.lm_eval_model:EvalkitModel"


def register() -> None:
    """Register evalkit's model with lm-eval if lm-eval has been imported.

    Never raises: an error here would make torch itself fail to import.
    """
    if "lm_eval" not in sys.modules:
        return
    try:
        # lm-eval registers its own models only while the registry is empty.
        import lm_eval.models  # noqa: F401
        from lm_eval.api.registry import model_registry

        if NAME not in model_registry:
            model_registry.register(NAME, target=TARGET)
    except Exception as error:
        logging.getLogger(__name__).warning("lm-eval does not know evalkit: %s", error)
