"""What a backend file declares about itself, readable without importing any heavy library.

A backend is one file in this folder with

- `SPEC: BackendSpec`
- `check(checkpoint, variant) -> None`: raises VariantError, before anything is loaded, where a
  layer of the model cannot be taken; it imports no torch where the checkpoint has files
- `load(source, variant, device, *, allow_pickle, trust_remote_code) -> Loaded`: `source` is the
  original checkpoint, or what `quantize` wrote
- `load_random(checkpoint, variant, device, *, seed) -> Loaded`, where random weights make sense
- `misfit(variant, shape) -> str`, where `SPEC.mixes`: why a layer of (outputs, inputs) cannot be
  held in that format, "" where it can
- `scheme(variant) -> Scheme`: how a linear layer is stored and read, for the planner
- `content(variant, *, offline, allow_pickle, trust_remote_code, hash_cache) -> str`, where the
  weights are not made from the model's: what identifies them, taken from their content
- `libraries(variant) -> tuple[str, ...]`, where they are not those of `SPEC.requires`
- `label(variant) -> str`: what tables and charts call the variant ("int8 LLM.int8()"); it is
  stored with the row. Without it the backend's name stands for the method (`method_label`)
- `run_settings(variant) -> tuple[str, ...]`: names of settings of the run that change the numbers
  of this variant, such as ("batch_tokens",) where a layer looks at all tokens of a batch; none
  without it
- `kernel_for(variant, shapes, capability) -> KernelChoice | None`: which kernel runs layers of
  these (outputs, inputs) on a card of that compute capability, or on a CPU (None), and why no
  faster one; it loads nothing. None where that is known only when the layers are there. Raises
  VariantError where no kernel takes them
- `build(checkpoint, variant, device, listener) -> None`, where kernels are compiled at first use:
  compiles them, so that no clock runs meanwhile
- `missing_tools(variant) -> tuple[str, ...]`, with `build`: what this machine lacks to compile
- `loaded_as(variant, device) -> Variant`, where `SPEC.unpacks`: an unquantized variant that takes
  the same memory while it is evaluated
- `arithmetic(variant, device) -> str`, where `quantize` computes in another dtype than `load`
- `prepare() -> None`: imports the libraries that `load` and `quantize` need, so that these are
  timed, and their memory counted, without
- `quantize(source, variant, out, device, calibration, *, allow_pickle, trust_remote_code,
  listener) -> None`, where `SPEC.quantizes`: writes the library's standard checkpoint into the
  empty directory `out`; `calibration` is lists of token ids or None
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from evalkit.analysis.cache_formats import FORMATS
from evalkit.errors import VariantError
from evalkit.paths import called
from evalkit.records import OptionValue, Variant


@dataclass(frozen=True)
class Option:
    """One `key=value` option of a backend.

    `allowed` lists the admissible values, or `minimum` and `maximum` bound a number. An option
    with `shown` is part of the canonical form even at its default (group_size names the method).
    `precisions` limits the option to some of the backend's precisions; empty means all.
    `identifies` is False for an option that is no part of an artifact's key: the calibration
    file is known there by its content, not by its path. `makes` is False for an option that says
    how a checkpoint is run and not what is in it: one artifact serves all its values.
    """

    name: str
    default: OptionValue
    help: str
    allowed: tuple[OptionValue, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    shown: bool = False
    precisions: tuple[str, ...] = ()
    identifies: bool = True
    makes: bool = True


# Of every variant that is loaded here, whatever its backend; see `_kv_cache`.
KV_CACHE, KV_ROTATION = (
    Option(
        "kv_cache",
        "16bit",
        "format of the KV cache, simulated for quality",
        allowed=("16bit", *FORMATS),
        makes=False,
    ),
    Option(
        "kv_rotation",
        "none",
        "Hadamard transform of keys and values before they are quantized",
        allowed=("none", "hadamard"),
        makes=False,
    ),
)
# Of every method that is calibrated.
CALIBRATION_SEED = Option(
    "calibration_seed",
    0,
    "another draw of calibration samples; added to --seed",
    minimum=0,
    identifies=False,
)


@dataclass(frozen=True)
class BackendSpec:
    """Name, precisions, options and needs of a backend.

    `requires` are distribution names for the error that gives the install line; `quantizes` says
    that a checkpoint can be made, `keeps` that to make one is slow: it is made once and kept in the
    store, while other weights are converted in seconds whenever they are loaded;
    `served` that the model runs in a server of its own and nothing is loaded here; `simulates`
    that rounded weights stay in 16-bit layers, so that size and speed are the baseline's;
    `unpacks` that plain weights are evaluated here and another engine runs the packed ones.
    `formats` are what `compare --formats` makes of it beside each precision with its defaults, as
    PRECISION,key=value… `mixes` are the options that may differ, as the precision may, from module
    to module of a checkpoint (`mixed@NAME,plan=FILE`), and `loaders` says who can load such a one.
    """

    name: str
    summary: str
    precisions: tuple[str, ...]
    options: tuple[Option, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    requires: tuple[str, ...] = ()
    install: str = ""
    quantizes: bool = False
    keeps: bool = False
    needs_calibration: bool = False
    served: bool = False
    simulates: bool = False
    unpacks: bool = False
    formats: tuple[str, ...] = ()
    mixes: tuple[str, ...] = ()
    loaders: tuple[str, ...] = ()

    def options_for(self, precision: str) -> tuple[Option, ...]:
        """The options that apply to `precision`: the backend's, and those of every such backend."""
        own = tuple(o for o in self.options if not o.precisions or precision in o.precisions)
        calibrated = (CALIBRATION_SEED,) if self.needs_calibration else ()
        return own if self.served else (*own, *calibrated, KV_CACHE, KV_ROTATION)


def resolved_options(spec: BackendSpec, variant: Variant) -> dict[str, OptionValue]:
    """Every option that applies to `variant` with its value, defaults included."""
    return {o.name: variant.option(o.name, o.default) for o in spec.options_for(variant.precision)}


def method_label(variant: Variant, method: str, left_out: tuple[str, ...] = ()) -> str:
    """Precision, method and options in the words of the field, such as "int4 GPTQ g128".

    An empty `method` is left out: plain 16 and 32 bit weights have none. So are options that are
    named in `left_out`: those that `method` already says.
    """
    words = [variant.precision, method]
    words += [_option_word(name, value) for name, value in variant.options if name not in left_out]
    return " ".join(word for word in words if word)


def _option_word(name: str, value: OptionValue) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if isinstance(value, str):
        return called(value)
    if name == CALIBRATION_SEED.name:
        return f"seed {value}"
    return f"g{value}" if name == "group_size" else f"{name}={value}"


def check_installed(spec: BackendSpec) -> None:
    """Raise VariantError with the install line where a distribution the backend needs is absent."""
    for name in spec.requires:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            line = spec.install or f"pip install {name}"
            message = f"backend {spec.name!r} needs the package {name!r}: install it with `{line}`"
            raise VariantError(message) from None


def check_device(spec: BackendSpec, device: str) -> None:
    """Raise VariantError where the backend does not run on `device` ("cpu", "cuda", "cuda:1")."""
    if device.partition(":")[0] not in spec.devices:
        raise VariantError(
            f"backend {spec.name!r} does not run on {device!r}: it runs on "
            f"{', '.join(spec.devices)}; use --device {spec.devices[0]} or another backend"
        )
