"""One quantization by GPTQModel: on the card and in the dtype that were asked for."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.backends._checks import INSTEAD
from evalkit.backends._gptqmodel import import_quietly, silence
from evalkit.errors import VariantError, is_out_of_memory
from evalkit.progress import Event, Listener
from evalkit.records import Variant

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Beyond this share of the free memory, quantized layers are moved to disk while the rest is made.
_MEMORY_SHARE = 0.5
_BATCH = 4
# Of a calibration sample, read by what was made and by what was written.
_CHECKED_TOKENS = 32


def quantize(
    source: Path,
    variant: Variant,
    asked: dict[str, Any],
    out: Path,
    device: str,
    calibration: Sequence[Sequence[int]] | None,
    *,
    dtype: str,
    arithmetic: str,
    allow_pickle: bool,
    trust_remote_code: bool,
    dynamic: Mapping[str, Mapping[str, Any]] | None,
    check: Callable[[PreTrainedModel], None],
    listener: Listener,
) -> None:
    """Quantize the checkpoint `source` into the directory `out`; see `_gptqmodel_maker`.

    `asked` is what QuantizeConfig takes for the method; what it leaves unquantized is held in
    `arithmetic` meanwhile and written in `dtype`. `dynamic` are the library's rules for single
    modules; `check` raises VariantError where the made model is not what was asked for.
    """
    import torch

    gptqmodel = import_quietly()
    if ":" in device:
        # Layers are moved to "cuda", which is the current card.
        torch.cuda.set_device(device)
    offload = out / ".offload"
    with silence(), _one_line(variant):
        model = gptqmodel.GPTQModel.load(
            str(source),
            gptqmodel.QuantizeConfig(
                **asked, **_settings(device, offload if _is_large(source) else None, dynamic)
            ),
            dtype=getattr(torch, arithmetic),
            trust_remote_code=trust_remote_code,
            **({} if allow_pickle else {"use_safetensors": True}),
        )
        model.subset_callback = _progress(variant, model.model, listener)
        _run(model, calibration, is_awq=asked.get("method") == "awq")
        check(model.model)
        _cast_rest(model.model, getattr(torch, dtype))
        model.save(str(out))
        ids = calibration[0] if calibration else range(_CHECKED_TOKENS)
        _check_written(model, out, variant, dtype, device, ids)
    shutil.rmtree(offload, ignore_errors=True)


def _run(model: Any, calibration: Sequence[Sequence[int]] | None, *, is_awq: bool) -> None:
    """Quantize the library's `model`, with calibration where there is any.

    AWQ packs by default with a kernel that is compiled for a card, and runs blocks alone, whose
    other inputs it keeps of the last batch only: batches of one are all alike.
    """
    lengths = {len(sample) for sample in calibration or ()}
    model.quantize(
        _batches(calibration) if calibration else None,
        batch_size=_BATCH if len(lengths) == 1 and not is_awq else 1,
        **({"backend": "awq_torch"} if is_awq else {}),
    )


def _settings(
    device: str, offload: Path | None, dynamic: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Any]:
    """What QuantizeConfig takes whatever the method: where it computes, and single modules."""
    return {
        # Without them GPTQModel takes the first card, and every other one that it sees. The
        # number of a card cannot be given here, and a device must not be given again at loading.
        "device": device.partition(":")[0],
        "compute_device_filter": None if device == "cpu" else lambda cards: _only(device, cards),
        "offload_to_disk": offload is not None,
        "dynamic": dynamic,
        **({} if offload is None else {"offload_to_disk_path": str(offload)}),
    }


def _only(device: str, cards: Sequence[Any]) -> list[Any]:
    """Of torch's devices that GPTQModel would spread its work over, the one asked for."""
    import torch

    wanted = torch.device(device)
    number = torch.cuda.current_device() if wanted.index is None else wanted.index
    return [card for card in cards if card == torch.device(wanted.type, number)]


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


def _check_written(
    model: Any, out: Path, variant: Variant, dtype: str, device: str, ids: Sequence[int]
) -> None:
    """Load what was written, and raise VariantError where its logits are not the live model's."""
    import torch
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    from evalkit.backends._gptqmodel_load import load
    from evalkit.scoring.rounding import same_mostly

    live = model.model.to(device)
    for module in live.modules():
        if hasattr(module, "qzero_format"):
            # What is written has zero points less one, which its kernels take back on loading.
            convert_gptq_v1_to_v2_format_module(module, module.bits, module.pack_dtype)
    inputs = torch.tensor([list(ids)[:_CHECKED_TOKENS]], device=device)
    with torch.inference_mode():
        made = live(input_ids=inputs, use_cache=False).logits
        read = load(out, dtype=dtype, device=device)[0](input_ids=inputs, use_cache=False).logits
    if not same_mostly(read.to(made.device), made):
        raise VariantError(
            f"what GPTQModel wrote of {variant.text} is not what it made: logits differ; {INSTEAD}"
        )


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
        raise VariantError(f"GPTQModel cannot make {variant.text} ({first}); {INSTEAD}") from error
