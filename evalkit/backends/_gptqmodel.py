"""Driving GPTQModel: its import, its definition of Phi-3 Small, and one quantization."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.backends._checks import DTYPES, check_all_quantized
from evalkit.errors import VariantError, is_out_of_memory
from evalkit.processors import threads
from evalkit.progress import Event, Listener
from evalkit.records import OptionValue, Variant

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Beyond this share of the free memory, quantized layers are moved to disk while the rest is made.
_MEMORY_SHARE = 0.5
_BATCH = 4
_CPU_GROUP_SIZES = (32, 64, 128)


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


def load(source: Path, *, dtype: str, device: str, **permissions: bool) -> PreTrainedModel:
    """The GPTQ or AWQ checkpoint `source` on `device`, run by the kernel GPTQModel chooses.

    On CPU it chooses torch's int4 operator for group sizes that operator refuses when it first
    runs; those are given the general kernel.
    """
    from evalkit.models.loading import load_causal_lm
    from evalkit.models.resolve import read_config

    import_quietly()
    made = read_config(source)["quantization_config"]
    override = None
    if device == "cpu" and made["quant_method"] == "gptq" and _is_refused_on_cpu(made):
        from transformers import GPTQConfig

        override = GPTQConfig(bits=made["bits"], backend="gptq_torch")
    with silence(), warnings.catch_warnings():
        # transformers warns that the checkpoint's own settings win over the given kernel's.
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")
        model = load_causal_lm(
            source, dtype=dtype, device=device, quantization_config=override, **permissions
        )
    if device == "cpu":
        _run_uncompiled(model)
    return model


def load_random(
    config: dict[str, Any],
    variant: Variant,
    options: dict[str, OptionValue],
    device: str,
    seed: int,
) -> PreTrainedModel:
    """The architecture of `config` with random packed weights; see `load` for the kernels."""
    import torch
    from transformers import GPTQConfig

    from evalkit.backends._gptqmodel_layers import fill_at_random
    from evalkit.models.random_weights import random_model

    import_quietly()
    made = {
        "bits": int(variant.precision.removeprefix("int")),
        "group_size": int(options["group_size"]),
        "desc_act": bool(options["desc_act"]),
        "sym": bool(options["sym"]),
    }
    kernel = "gptq_torch" if device == "cpu" and _is_refused_on_cpu(made) else None
    with silence():
        model = random_model(
            config,
            dtype=getattr(torch, DTYPES[str(options["dtype"])]),
            device=device,
            seed=seed,
            quantization_config=GPTQConfig(**made, backend=kernel),
            packed=True,
            fill=fill_at_random,
        )
    if device == "cpu":
        _run_uncompiled(model)
    return model


def _is_refused_on_cpu(made: dict[str, Any]) -> bool:
    return made["bits"] == 4 and made["group_size"] not in _CPU_GROUP_SIZES


def _run_uncompiled(model: PreTrainedModel) -> None:
    """Undo torch.compile of the general kernel's unpacking.

    It takes a compiler and a minute at the first forward pass, and gains little beside the
    matrix product in 16 bit.
    """
    for module in model.modules():
        vars(module).pop("dequantize_weight", None)


def quantize(
    source: Path,
    variant: Variant,
    options: dict[str, OptionValue],
    out: Path,
    device: str,
    calibration: Sequence[Sequence[int]],
    *,
    allow_pickle: bool,
    trust_remote_code: bool,
    listener: Listener,
) -> None:
    """Quantize the checkpoint `source` into the directory `out`; see `evalkit.backends.gptq`."""
    import torch

    gptqmodel = import_quietly()
    _check_known(source, variant)
    offload = out / ".offload"
    with silence(), _one_line(variant):
        model = gptqmodel.GPTQModel.load(
            str(source),
            _config(gptqmodel, variant, options, offload if _is_large(source) else None),
            device=device,
            # CPUs multiply float16 slowly, and bfloat16 would round the weights beforehand.
            dtype=torch.float32 if device == "cpu" else torch.float16,
            trust_remote_code=trust_remote_code,
            **({} if allow_pickle else {"use_safetensors": True}),
        )
        model.subset_callback = _progress(variant, model.model, listener)
        lengths = {len(sample) for sample in calibration}
        model.quantize(_batches(calibration), batch_size=_BATCH if len(lengths) == 1 else 1)
        check_all_quantized(model.model, variant, "int4@bitsandbytes")
        _cast_rest(model.model, getattr(torch, DTYPES[str(options["dtype"])]))
        model.save(str(out))
    shutil.rmtree(offload, ignore_errors=True)


def _config(
    gptqmodel: Any, variant: Variant, options: dict[str, OptionValue], offload: Path | None
) -> Any:
    group_size, desc_act = int(options["group_size"]), bool(options["desc_act"])
    return gptqmodel.QuantizeConfig(
        bits=int(variant.precision.removeprefix("int")),
        group_size=group_size,
        desc_act=desc_act,
        # Ordering columns within groups needs groups, and excludes ordering across them.
        act_group_aware=not desc_act and group_size > 0,
        sym=bool(options["sym"]),
        damp_percent=float(options["damp_percent"]),
        # Plain rounding where calibration reached a layer too rarely would be a silent fallback.
        fallback=None,
        offload_to_disk=offload is not None,
        **({} if offload is None else {"offload_to_disk_path": str(offload)}),
    )


def _is_large(source: Path) -> bool:
    import psutil

    size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    return bool(size > _MEMORY_SHARE * psutil.virtual_memory().available)


def _batches(calibration: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    import torch

    return [
        {
            "input_ids": torch.tensor([list(sample)]),
            "attention_mask": torch.ones(1, len(sample), dtype=torch.long),
        }
        for sample in calibration
    ]


def _cast_rest(model: PreTrainedModel, dtype: Any) -> None:
    """Hold what was not quantized in 16 bit again; scales are float16 by the format."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype


def _progress(variant: Variant, model: PreTrainedModel, listener: Listener) -> Any:
    layers = int(model.config.num_hidden_layers)

    def advance(*, layer_idx: int, subset_index: int, subset_total: int, **_: Any) -> None:
        done = layer_idx + subset_index / max(1, subset_total)
        listener(Event(variant.label, "quantizing", done, layers, "layers"))

    return advance


def _check_known(source: Path, variant: Variant) -> None:
    from gptqmodel.models import auto

    from evalkit.models.resolve import read_config

    model_type = str(read_config(source).get("model_type", ""))
    if model_type not in auto.SUPPORTED_MODELS:
        raise VariantError(
            f"GPTQModel does not know the architecture {model_type!r}: use "
            f"{'int8' if variant.precision == 'int8' else 'int4'}@bitsandbytes"
        )


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


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep GPTQModel's banner, bars and tables off stdout, which is for results."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _one_line(variant: Variant) -> Iterator[None]:
    """GPTQModel's own errors as one line; running out of memory stays what it is."""
    try:
        yield
    except (OSError, VariantError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise VariantError(f"GPTQModel cannot make {variant.text}: {first}") from error
