"""What the methods that GPTQModel makes have in common: checks, kernels, making and loading.

GPTQ, plain rounding and AWQ differ in what they ask of the library and in how they pack; a backend
declares that as a `Maker`, whose methods are its functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.backends import _gptqmodel, _gptqmodel_kernels, _gptqmodel_load, _mixed
from evalkit.backends._checks import (
    DTYPES,
    LEAST_PACKED,
    check_quantized,
    check_unquantized,
    refuse,
)
from evalkit.backends._gptqmodel_dynamic import most_frequent, rules
from evalkit.backends._kernels import Capability, KernelChoice
from evalkit.backends._mixed import Parts
from evalkit.backends._spec import BackendSpec, check_device, resolved_options
from evalkit.errors import VariantError
from evalkit.progress import Listener, ignore
from evalkit.records import Variant

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evalkit.models.checkpoint import Checkpoint
    from evalkit.models.loading import Loaded
    from evalkit.models.shapes import Shape


@dataclass(frozen=True)
class Maker:
    """One method of GPTQModel's.

    `made` is the quantization_config that a variant's checkpoint will have, as far as kernels ask.
    `asked` is what the library's QuantizeConfig takes for the variant beside what it takes of all.
    Outputs and inputs must be multiples of `packs`. `instead` are variants to use where a model
    cannot be packed. `packs_16bit` says that the library packs layers of 16 bit only.
    """

    spec: BackendSpec
    made: Callable[[Variant], dict[str, Any]]
    asked: Callable[[Variant], dict[str, Any]]
    packs: tuple[int, int]
    instead: Callable[[Variant], Sequence[str]]
    packs_16bit: bool = False

    def check(self, checkpoint: Checkpoint, variant: Variant) -> None:
        """Raise VariantError where GPTQModel does not know the architecture, or widths do not fit.

        It names the first smaller group size that fits, else another method.
        """
        check_unquantized(checkpoint, variant)
        if reason := self.problem(checkpoint, variant):
            head = f"{variant.precision}@{self.spec.name}"
            groups = [f"{head},group_size={size}" for size in self._smaller_groups(variant)]
            refuse(checkpoint, reason, *groups, *self.instead(variant))

    def problem(self, checkpoint: Checkpoint, variant: Variant) -> str:
        """Why the variant cannot be made of an unquantized checkpoint; "" where it can."""
        model_type = str(checkpoint.config.get("model_type", ""))
        if model_type not in _gptqmodel.known_types():
            return (
                f"GPTQModel cannot quantize the architecture {model_type!r} as it is installed here"
            )
        from evalkit.models.shapes import decoder_shapes

        shapes = decoder_shapes(checkpoint)
        parts = _mixed.parts(variant, self.spec, shapes)
        unfit = self._unfit(shapes, parts)
        if _mixed.is_mixed(variant):
            _mixed.refuse_widths(variant, unfit, parts)
        elements = sum(shapes[name][0] * shapes[name][1] for name in unfit)
        if elements <= (1 - LEAST_PACKED) * sum(rows * width for rows, width in shapes.values()):
            return ""
        name, why = next(iter(unfit.items()))
        others = sum(reason == why for reason in unfit.values()) - 1
        more = f" and {others} more" if others else ""
        return f"{variant.text} cannot pack {name}{more}: {why}"

    def kernel_for(
        self, variant: Variant, shapes: Mapping[str, Shape], capability: Capability
    ) -> KernelChoice:
        """The kernel that runs layers of these shapes; see `_gptqmodel_kernels`."""
        return self._settle(variant, shapes, capability)[1]

    def missing_tools(self, variant: Variant) -> tuple[str, ...]:
        """What this machine lacks to compile kernels, which decides the kernel that runs."""
        return _gptqmodel_kernels.missing_tools()

    def build(
        self, checkpoint: Checkpoint, variant: Variant, device: str, listener: Listener
    ) -> None:
        """Compile what the kernel needs on a card and is not there yet, with progress."""
        from evalkit.models.cuda_build import capability
        from evalkit.models.shapes import decoder_shapes

        if (on := capability(device)) is not None:
            settled = self._settle(variant, decoder_shapes(checkpoint), on)
            _gptqmodel_load.build(settled, variant.label, listener)

    def arithmetic(self, variant: Variant, device: str) -> str:
        """The dtype in which `quantize` holds weights and runs the calibration text.

        On a card it is the variant's own. CPUs multiply float16 slowly, and bfloat16 would round
        the weights beforehand.
        """
        on_cpu = device == "cpu" and not self.packs_16bit
        return "float32" if on_cpu else DTYPES[self._dtype(variant)]

    def prepare(self) -> None:
        """Import GPTQModel and transformers."""
        _gptqmodel.import_quietly()

    def quantize(
        self,
        source: Path,
        variant: Variant,
        out: Path,
        device: str,
        calibration: Sequence[Sequence[int]] | None = None,
        *,
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
        listener: Listener = ignore,
    ) -> None:
        """Write the quantized checkpoint of `source` into the directory `out`.

        `calibration` are token ids of samples. Raises VariantError where GPTQModel does not know
        the architecture or cannot quantize a layer.
        """
        if self.spec.needs_calibration and not calibration:
            raise VariantError(
                f"{variant.text} needs calibration text: give it as calibration=FILE, or use a "
                "method without, such as int4@bitsandbytes"
            )
        from evalkit.backends import _gptqmodel_quantize
        from evalkit.models.resolve import resolve_model
        from evalkit.models.shapes import decoder_shapes

        checkpoint = resolve_model(
            str(source), allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
        )
        check_device(self.spec, device)
        shapes = decoder_shapes(checkpoint)
        parts = _mixed.parts(variant, self.spec, shapes)
        parts = {**parts, **dict.fromkeys(self._unfit(shapes, parts))}
        _gptqmodel_quantize.quantize(
            source,
            variant,
            self.asked(most_frequent(parts)),
            out,
            device,
            calibration,
            dtype=DTYPES[self._dtype(variant)],
            arithmetic=self.arithmetic(variant, device),
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
            dynamic=rules(parts, self.asked),
            check=lambda model: self._check_made(model, variant),
            listener=listener,
        )

    def load(
        self,
        source: Path,
        variant: Variant,
        device: str,
        *,
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
    ) -> Loaded:
        """The checkpoint that `quantize` wrote, on `device`, run by the kernel of `kernel_for`."""
        from evalkit.models.checkpoint import read_config

        check_device(self.spec, device)
        if "quantization_config" not in read_config(source):
            raise VariantError(f"{source} is not quantized yet: make {variant.text} of it first")

        def load_model(kernel: str) -> tuple[PreTrainedModel, tuple[str, ...]]:
            return _gptqmodel_load.load(
                source,
                dtype=DTYPES[self._dtype(variant)],
                device=device,
                kernel=kernel,
                allow_pickle=allow_pickle,
                trust_remote_code=trust_remote_code,
            )

        asked = self._kernel(variant)
        model, notes = load_model(asked)
        return dataclasses.replace(
            self._loaded(model, variant, notes),
            reload=lambda: load_model(asked)[0],
            unpackable=None if device == "cpu" else lambda: load_model("torch")[0],
        )

    def load_random(
        self, checkpoint: Checkpoint, variant: Variant, device: str, *, seed: int = 0
    ) -> Loaded:
        """The architecture of `checkpoint` with random packed weights, run by the same kernels."""
        from evalkit.models.random_weights import NOTE
        from evalkit.models.shapes import decoder_shapes

        _mixed.refuse_random(variant)
        check_device(self.spec, device)
        self.check(checkpoint, variant)
        model, notes = _gptqmodel_load.load_random(
            checkpoint.config,
            self.made(variant),
            decoder_shapes(checkpoint),
            dtype=DTYPES[self._dtype(variant)],
            device=device,
            seed=seed,
            kernel=self._kernel(variant),
        )
        return self._loaded(model, variant, (NOTE, *notes))

    def _loaded(self, model: PreTrainedModel, variant: Variant, notes: tuple[str, ...]) -> Loaded:
        from evalkit.backends._gptqmodel_layers import FORMATS
        from evalkit.models.kernels import kernel_names
        from evalkit.models.layers import kept_16bit
        from evalkit.models.loading import Loaded

        self._check_made(model, variant)
        kernel = kernel_names(model, FORMATS)
        return Loaded(model, kernel, kept_16bit(model), notes, formats=FORMATS)

    def _check_made(self, model: PreTrainedModel, variant: Variant) -> None:
        """Raise VariantError where the model is not packed, or a mix not as its plan says."""
        if _mixed.is_mixed(variant):
            _mixed.check_made(model, variant, self.spec)
        else:
            check_quantized(model, variant)

    def _settle(
        self, variant: Variant, shapes: Mapping[str, Shape], capability: Capability
    ) -> tuple[_gptqmodel_kernels.Kernel, KernelChoice]:
        dtype = DTYPES[self._dtype(variant)]
        layouts: dict[_gptqmodel_kernels.Layout, dict[str, Shape]] = {}
        for name, part in _mixed.parts(variant, self.spec, shapes).items():
            if part is not None:
                layout = _gptqmodel_kernels.Layout.of_config(self.made(part), dtype)
                layouts.setdefault(layout, {})[name] = shapes[name]
        if not layouts:
            layouts = {_gptqmodel_kernels.Layout.of_config(self.made(variant), dtype): {}}
        return _gptqmodel_kernels.choose(layouts, capability, self._kernel(variant))

    def _dtype(self, variant: Variant) -> str:
        return str(resolved_options(self.spec, variant)["dtype"])

    def _kernel(self, variant: Variant) -> str:
        return str(resolved_options(self.spec, variant)["kernel"])

    def _group_size(self, variant: Variant) -> int:
        return int(resolved_options(self.spec, variant)["group_size"])

    def _unfit(self, shapes: Mapping[str, Shape], parts: Parts) -> dict[str, str]:
        """Layers whose widths cannot be packed or divided into groups, and why."""
        outputs, inputs = self.packs
        sizes = {name: self._group_size(part) for name, part in parts.items() if part is not None}
        found: dict[str, str] = {}
        for word, side, packed in (
            ("inputs", 1, inputs),
            ("outputs", 0, outputs),
            ("inputs", 1, 0),
        ):
            for name, size in sizes.items():
                # Last come groups; a group size of -1 is a whole row.
                multiple = packed or max(1, size)
                if shapes[name][side] % multiple:
                    why = f"{shapes[name][side]} {word} are no multiple of {multiple}"
                    found.setdefault(name, why)
        return found

    def misfit(self, variant: Variant, shape: Shape) -> str:
        """Why a layer of (outputs, inputs) cannot be held in a format; "" where it can."""
        return self._unfit({"layer": shape}, {"layer": variant}).get("layer", "")

    def _smaller_groups(self, variant: Variant) -> list[int]:
        """Group sizes to try instead, the largest first, one scale for a row last."""
        size = self._group_size(variant)
        allowed = next(one.allowed for one in self.spec.options if one.name == "group_size")
        sizes = [int(one) for one in allowed]
        return [*sorted((one for one in sizes if 0 < one < size), reverse=True), -1]
