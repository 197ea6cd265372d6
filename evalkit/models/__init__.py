"""What is evaluated: resolving a name to a checkpoint and loading it."""

import logging

# Libraries that are merely installed, and that transformers imports, report on kernels and
# deprecations that concern no user of evalkit.
for _name in ("torchao", "torch.utils._pytree", "bitsandbytes", "datasets", "lm_eval"):
    logging.getLogger(_name).setLevel(logging.ERROR)
