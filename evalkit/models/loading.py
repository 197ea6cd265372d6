"""Loading a checkpoint into a model: whole; pickled weights and remote code only when allowed."""

from __future__ import annotations

import contextlib
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

import evalkit.models.phi3_small  # noqa: F401  registers the architecture with the Auto classes
from evalkit.errors import ModelError, is_out_of_memory
from evalkit.models.layer_format import LayerFormat
from evalkit.models.offload import placement
from evalkit.models.unpacked import Unpacked
from evalkit.models.vocabulary import vocabulary_fault

_SHOWN_KEYS = 3
# Of a text whose rest is exchanged, to see whether a model looks ahead.
_TRIED_TOKENS = 4
_LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    ImportError,
    SafetensorError,
    # Pickled weights that are more than tensors, which torch refuses to run.
    pickle.UnpicklingError,
)


@dataclass
class Loaded:
    """A model ready to run, and what really runs in it.

    `kernel` names the class and dtype of the modules that run the linear layers of the decoder
    ("Linear (float16)", "MarlinLinear int4 g128 (float16)"); `kept_16bit` names the weight modules
    that a quantized model keeps in 16 bit by design; `notes` are lines for the run's record.
    `reload` loads the same weights again, for kernels that repack theirs when they first run;
    `unpackable` loads them into layers that can be unpacked, for kernels that keep theirs in an
    order of their own.
    `formats` are the kinds of quantized layers the model may hold. `scoring` is this model as the
    quality pass runs it, once `evalkit.models.compute.for_scoring` has made it. `unpacked` is what
    its plain weights were unpacked from, where the variant is held and run otherwise.
    """

    model: PreTrainedModel
    kernel: str
    kept_16bit: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reload: Callable[[], PreTrainedModel] | None = field(default=None, repr=False)
    formats: tuple[LayerFormat, ...] = field(default=(), repr=False)
    scoring: Loaded | None = field(default=None, repr=False)
    unpacked: Unpacked | None = field(default=None, repr=False)
    unpackable: Callable[[], PreTrainedModel] | None = field(default=None, repr=False)


def load_causal_lm(
    path: Path,
    *,
    dtype: torch.dtype | str,
    device: str,
    quantization_config: Any = None,
    offload: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """The causal language model of the directory `path` on `device`, in evaluation mode.

    `dtype` is that of the floating point weights ("auto" keeps the checkpoint's); with `offload`
    what does not fit the device stays elsewhere. `options` go to `from_pretrained`: with
    `state_dict`, all weights by their names for the architecture `config`, those of `path` are not
    read. Raises
    ModelError where weights are missing or of another shape, or where the file holds tensors the
    model does not have (its own ignore list excepted).
    """
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    loader: Any = AutoModelForCausalLM
    given = "state_dict" in options
    if given:
        # The Auto class takes no weights but those of a place.
        loader = loader._model_mapping[type(options["config"])]
    options |= placement(device) if offload else {"device_map": {"": device}}
    try:
        with quiet():
            model, report = loader.from_pretrained(
                None if given else path,
                dtype=dtype,
                use_safetensors=None if allow_pickle else True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                # Reported by `_check_report`, with the name of the weight.
                ignore_mismatched_sizes=True,
                **options,
            )
    except _LOADING_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{path} cannot be loaded: {_reason(error)}") from error
    _check_report(path, report)
    model.eval()
    _check_causal(path, model)
    return model


def load_tokenizer(path: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of the directory `path`.

    Raises ModelError where there is none, also where transformers would make one up: without a
    vocabulary it encodes every text as unknown tokens or as nothing.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        fault = vocabulary_fault(path) or _first_line(error)
        raise ModelError(_no_tokenizer(path, fault)) from error
    own = set(type(tokenizer).vocab_files_names.values())
    if own and (fault := vocabulary_fault(path, own)):
        raise ModelError(_no_tokenizer(path, fault))
    return tokenizer


def _no_tokenizer(path: Path, fault: str) -> str:
    return (
        f"{path} has no usable tokenizer: {fault}; copy the tokenizer files of the original model"
        " into it"
    )


def _reason(error: Exception) -> str:
    if "Unrecognized configuration class" in str(error):
        return (
            "transformers has no causal language model of this type (an encoder-decoder, or one"
            " that reads pictures too): give a causal language model, or its text model alone"
        )
    return _first_line(error)


@torch.inference_mode()
def _check_causal(path: Path, model: PreTrainedModel) -> None:
    """Raise ModelError for a model in which a token changes what lies before it."""
    encoder = not getattr(model.config.get_text_config(), "is_decoder", True)
    if not encoder and not _masks_nothing(model):
        return
    ids = torch.arange(2 * _TRIED_TOKENS, device=model.device)[None] + _TRIED_TOKENS
    others = ids.flip(1).roll(_TRIED_TOKENS, 1)
    others[:, :_TRIED_TOKENS] = ids[:, :_TRIED_TOKENS]
    one, other = (model(input_ids=x).logits[:, :_TRIED_TOKENS].float() for x in (ids, others))
    if not torch.allclose(one, other, rtol=0, atol=0.01 * float(one.abs().max())):
        why = " (is_decoder is false in config.json)" if encoder else ""
        raise ModelError(
            f"{path} is a {type(model).__name__} that reads in both directions{why}, so a text has"
            " no likelihood: give a causal language model"
        )


def _masks_nothing(model: PreTrainedModel) -> bool:
    """Whether the code of an unquantized `model` makes no causal mask.

    Recurrent models need none; XLNet and CPM-Ant look ahead where nobody gives them one. Packed
    weights stay as they were loaded, and are not run here.
    """
    if hasattr(model, "hf_quantizer"):
        return False
    code = sys.modules.get(type(model).__module__)
    file = getattr(code, "__file__", None)
    return file is not None and "causal_mask" not in Path(file).read_text(encoding="utf-8")


def _check_report(path: Path, report: dict[str, Any]) -> None:
    problems = {
        "holds in another shape": report.get("mismatched_keys"),
        "lacks": report.get("missing_keys"),
        "does not know": _without_zero_biases(path, report.get("unexpected_keys") or ()),
    }
    for words, keys in problems.items():
        if keys:
            names = sorted(str(key[0]) if isinstance(key, tuple) else str(key) for key in keys)
            more = f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else ""
            raise ModelError(
                f"{path} {words} the weights {', '.join(names[:_SHOWN_KEYS])}{more}: the files do "
                "not belong to this config.json; download or save the checkpoint again"
            )


def _without_zero_biases(path: Path, names: Iterable[str]) -> list[str]:
    """`names` without biases that are all zeros: AutoGPTQ writes one for layers that have none."""
    left = set(names)
    biases = {name for name in left if name.endswith(".bias")}
    for file in path.glob("*.safetensors") if biases else ():
        with safe_open(file, "pt") as tensors:
            for name in biases & set(tensors.keys()):
                if not tensors.get_tensor(name).any():
                    left.discard(name)
    return sorted(left)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' tables and bars while loading: `_check_report` says it in one line."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
