"""GPTQModel in this process: its import in silence, and its definition of Phi-3 Small."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from evalkit.processors import threads


def import_quietly() -> Any:
    """Import gptqmodel, without its banner, and teach it Phi-3 Small.

    Its thread pool fails on one or two cores unless told the number of workers. Its packing
    extension is compiled at first use, which takes a compiler and a minute; packing in Python
    gives the same words.
    """
    if threads() <= 2:
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    os.environ.setdefault("GPTQMODEL_DISABLE_PACK_EXT", "1")
    with silence():
        import gptqmodel
        import optimum.gptq  # noqa: F401  reads the checkpoints in transformers
        from gptqmodel.looper import loop_processor

        _register_phi3_small()
    # Its logs would lie in a directory "logs" wherever the command was given.
    loop_processor._PROJECT_LOG_DIR = Path(tempfile.gettempdir()) / "gptqmodel-logs"
    return gptqmodel


def _register_phi3_small() -> None:
    """Tell GPTQModel which layers of Phi-3 Small to quantize, in the order they run."""
    from gptqmodel.models import auto
    from gptqmodel.models.base import BaseQModel

    import evalkit.models.phi3_small  # noqa: F401  registers the architecture

    if "phi3small" in auto.MODEL_MAP:
        return

    class Phi3SmallQModel(BaseQModel):
        pre_lm_head_norm_module = "model.final_layernorm"
        module_tree: ClassVar[list[Any]] = [
            "model",
            "layers",
            "#",
            {
                "input_layernorm": ("input_layernorm:!",),
                "self_attn": ("query_key_value:0", "dense:1"),
                "post_attention_layernorm": ("post_attention_layernorm:!",),
                "mlp": ("up_proj:0", "down_proj:1"),
            },
        ]

    auto.MODEL_MAP["phi3small"] = Phi3SmallQModel
    auto.SUPPORTED_MODELS.append("phi3small")


@cache
def known_architectures() -> frozenset[str]:
    """The model types that GPTQModel has a definition of, read from its source.

    To import it takes seconds, and begins CUDA's settings in the process that does so.
    """
    found = importlib.util.find_spec("gptqmodel")
    if found is None or found.origin is None:
        return frozenset()
    source = (Path(found.origin).parent / "models" / "auto.py").read_text(encoding="utf-8")
    known = {"phi3small"}
    for node in ast.walk(ast.parse(source)):
        # MODEL_MAP = {"llama": …}, and MODEL_MAP["qwen3_5"] = … where transformers has it.
        if not isinstance(node, ast.Assign):
            continue
        target, keys = node.targets[0], getattr(node.value, "keys", [])
        if ast.unparse(target) == "MODEL_MAP":
            known |= {str(key.value) for key in keys if isinstance(key, ast.Constant)}
        elif ast.unparse(target).startswith("MODEL_MAP[") and isinstance(target, ast.Subscript):
            known.add(str(ast.literal_eval(target.slice)))
    return frozenset(known)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep GPTQModel's banner, bars and tables off stdout, which is for results."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
