"""Makes `--model evalkit` known to lm-eval.

Named as an entry point of the group `torch.backends`, which torch calls whenever it is imported.
lm-eval is imported before torch by its own command line, so this is the moment to register.
Nothing is imported for programs that are not lm-eval.
"""

from __future__ import annotations

import sys

NAME = "evalkit"
TARGET = "evalkit.running.lm_eval_model:EvalkitModel"


def register() -> None:
    """Register evalkit's model with lm-eval if lm-eval has been imported; never raises."""
    if "lm_eval" not in sys.modules:
        return
    from evalkit.tasks.registration import register_model

    register_model(NAME, TARGET)
