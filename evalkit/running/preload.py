"""Imported once by the forkserver, so that every child starts with the heavy libraries loaded."""

import logging
import warnings

# Libraries that are merely installed report on kernels this run does not use.
for name in ("torchao", "torch.utils._pytree", "bitsandbytes", "datasets", "lm_eval"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)

import evalkit.models.phi3_small  # noqa: E402, F401
