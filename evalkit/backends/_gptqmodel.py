"""GPTQModel in this process: its import in silence, and its definition of Phi-3 Small."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import importlib.util
import io
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from packaging.requirements import Requirement

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


# Its definition is that of a checkpoint whose experts were taken apart beforehand.
_CONVERTED = frozenset({"dbrx"})


@cache
def known_types() -> frozenset[str]:
    """Model types that GPTQModel can quantize here, read in its source: its import takes seconds.

    Those whose definition asks for a package that is not installed are left out.
    """
    spec = importlib.util.find_spec("gptqmodel")
    if spec is None or spec.origin is None:
        return frozenset()
    folder = Path(spec.origin).parent / "models"
    found = {"phi3small": ""} | _model_map(folder / "auto.py")
    lacking = {name for file in (folder / "definitions").glob("*.py") for name in _lacking(file)}
    known = frozenset(model_type for model_type, name in found.items() if name not in lacking)
    return known - _CONVERTED


def _model_map(file: Path) -> dict[str, str]:
    """The class of each model type, as GPTQModel's table in `file` has it."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        # MODEL_MAP = {"llama": …}, and MODEL_MAP["qwen3_5"] = … where transformers has it.
        if not isinstance(node, ast.Assign):
            continue
        target, value = node.targets[0], node.value
        if ast.unparse(target) == "MODEL_MAP" and isinstance(value, ast.Dict):
            for key, name in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant):
                    found[str(key.value)] = ast.unparse(name)
        elif isinstance(target, ast.Subscript) and ast.unparse(target.value) == "MODEL_MAP":
            found[str(ast.literal_eval(target.slice))] = ast.unparse(value)
    return found


def _lacking(file: Path) -> Iterator[str]:
    """Classes of `file` that ask for a package which is not installed."""
    source = file.read_text(encoding="utf-8")
    if "require_pkgs" not in source:
        return
    for kind in (one for one in ast.parse(source).body if isinstance(one, ast.ClassDef)):
        asked = [
            line.value
            for line in kind.body
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "require_pkgs"
        ]
        if not all(_is_installed(name) for value in asked for name in ast.literal_eval(value)):
            yield kind.name


def _is_installed(requirement: str) -> bool:
    needed = Requirement(requirement)
    try:
        return needed.specifier.contains(importlib.metadata.version(needed.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def _register_phi3_small() -> None:
    """Tell GPTQModel which layers of Phi-3 Small to quantize, in the order they run."""
    from gptqmodel.models import auto
    from gptqmodel.models.base import BaseQModel

    import evalkit.models.phi3_small  # noqa: F401  registers the architecture

    if "phi3small" in auto.MODEL_MAP:
        return

    class Phi3SmallQModel(BaseQModel):
        pre_lm_head_norm_module = "model.final_layernorm"
        # AWQ runs blocks alone, and would make cosines by the arguments of Llama's module.
        awq_preserve_explicit_position_embeddings = True
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


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep GPTQModel's banner, bars and tables off stdout, which is for results."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
