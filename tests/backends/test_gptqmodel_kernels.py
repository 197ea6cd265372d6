"""The kernel of GPTQ and AWQ, settled over real widths for cards and machines that are not here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evalkit.analysis import footprint
from evalkit.backends import Capability, KernelChoice, _schemes, kernel_for, parse_variant
from evalkit.backends import _gptqmodel_kernels as kernels
from evalkit.backends._gptqmodel import import_quietly, silence
from evalkit.backends._gptqmodel_kernels import Layout
from evalkit.backends._gptqmodel_load import build, packed_shapes, settle
from evalkit.errors import VariantError
from evalkit.models.resolve import resolve_model
from evalkit.models.shapes import Shape, decoder_shapes
from evalkit.progress import Event

# Cards: Ada (RTX 4090), Hopper, Blackwell (RTX 5090).
CARDS = ((8, 9), (9, 0), (12, 0))
# (outputs, inputs) of every kind of linear layer.
WIDTHS: dict[str, tuple[Shape, ...]] = {
    "SmolLM2-135M": ((576, 576), (192, 576), (1536, 576), (576, 1536)),
    "Llama-3-8B": ((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336)),
    "Gemma-3-1B": ((1024, 1152), (256, 1152), (1152, 1024), (6912, 1152), (1152, 6912)),
    "Gemma-3-4B": ((2048, 2560), (1024, 2560), (2560, 2048), (10240, 2560), (2560, 10240)),
    "Phi-3 Small": ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)),
}
NVCC, GCC = "nvcc of CUDA 13", "a C compiler (gcc)"
# What each machine lacks: for CUDA builds, for Triton.
MACHINES: dict[str, tuple[str | None, str | None]] = {
    "whole": (None, None),
    "no nvcc": (NVCC, None),
    "no headers": ("CUDA's headers (cusparse.h)", "Python's headers (Python.h)"),
    "no gcc": ("g++", GCC),
    "neither": (NVCC, GCC),
}


@pytest.fixture(scope="module", autouse=True)
def gptqmodel() -> Any:
    return import_quietly()


@pytest.fixture(scope="module")
def widths() -> dict[str, dict[str, Shape]]:
    found = {
        model: {f"layers.0.{number}": shape for number, shape in enumerate(shapes)}
        for model, shapes in WIDTHS.items()
    }
    return found | {"demo": decoder_shapes(resolve_model("demo"))}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[[str], None]:
    """Makes this machine one of MACHINES, where nothing has been compiled yet."""
    monkeypatch.setenv("GPTQMODEL_TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "_failed", {})

    def become(name: str) -> None:
        cuda, triton = MACHINES[name]
        monkeypatch.setattr(kernels, "missing_for_cuda_build", lambda: cuda)
        monkeypatch.setattr(kernels, "missing_for_triton", lambda: triton)

    return become


def choices(
    words: str, widths: dict[str, dict[str, Shape]], on: Capability
) -> Iterator[tuple[str, KernelChoice]]:
    """The choice for each model that the variant's groups divide."""
    variant = parse_variant(words)
    size = int(str(variant.option("group_size", 128)))
    for model, shapes in widths.items():
        if size < 0 or not any(columns % size for _, columns in shapes.values()):
            choice = kernel_for(variant, shapes, on)
            assert choice is not None
            yield model, choice


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("words", ["int4", "int4,group_size=64", "int8@gptq", "int4,group_size=-1"])
def test_marlin_runs_symmetric_weights_where_it_can_be_compiled(
    widths: Any, machine: Any, card: Capability, words: str
) -> None:
    machine("whole")
    found = dict(choices(words, widths, card))
    assert {choice.kernel for choice in found.values()} == {"MarlinLinear"}
    assert ("SmolLM2-135M" in found) == ("=64" in words or "=-1" in words)
    assert all(choice.builds == ("marlin_fp16",) for choice in found.values())
    assert not any(choice.reason or choice.notes for choice in found.values())


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize(
    ("name", "kernel", "fix"),
    [
        ("no nvcc", "TritonV2Linear", "sudo apt install cuda-toolkit"),
        ("no headers", "TorchLinear", "cuda-toolkit && sudo apt install python3-dev"),
        ("no gcc", "TorchLinear", "sudo apt install g++ && sudo apt install gcc"),
        ("neither", "TorchLinear", "cuda-toolkit && sudo apt install gcc"),
    ],
)
def test_the_next_kernel_needs_no_build(
    widths: Any, machine: Any, card: Capability, name: str, kernel: str, fix: str
) -> None:
    machine(name)
    for _, choice in choices("int4,group_size=64", widths, card):
        assert (choice.kernel, choice.builds) == (kernel, ())
        assert "MarlinLinear is faster, but it is compiled first" in choice.reason
        assert choice.fix.endswith(fix)
        assert len(choice.notes) == 1 and choice.fix in choice.notes[0]


@pytest.mark.parametrize(
    ("words", "kernel"),
    [
        ("int4,sym=false", "TritonV2Linear"),
        ("int4,group_size=256", "TritonV2Linear"),
        ("int2", "TritonV2Linear"),
        ("int3", "TorchLinear"),
        ("int4,group_size=64,desc_act=true", "MarlinLinear"),
    ],
)
@pytest.mark.parametrize("card", CARDS)
def test_what_marlin_does_not_take(
    widths: Any, machine: Any, card: Capability, words: str, kernel: str
) -> None:
    machine("whole")
    for model, choice in choices(words, widths, card):
        # Its widths of 576 are padded, which the order of activations forbids.
        misfit = model == "SmolLM2-135M" and "desc_act" in words
        assert choice.kernel == ("TritonV2Linear" if misfit else kernel)
        assert not choice.fix
        if misfit:
            assert "cannot take layers.0.0 of 576 × 576 weights" in choice.reason


def test_bfloat16_needs_two_extensions(widths: Any, machine: Any) -> None:
    machine("whole")
    choice = kernel_for(parse_variant("int4,dtype=bf16"), widths["Llama-3-8B"], (8, 9))
    assert choice is not None and choice.builds == ("marlin_fp16", "marlin_bf16")
    assert choice.seconds == 240


def test_a_card_of_2018_has_no_bfloat16(widths: Any, machine: Any) -> None:
    machine("whole")
    shapes = widths["Llama-3-8B"]
    choice = kernel_for(parse_variant("int4"), shapes, (7, 5))
    assert choice is not None and choice.kernel == "MarlinLinear"
    with pytest.raises(VariantError, match=r"bfloat16 needs compute capability 8\.0"):
        kernel_for(parse_variant("int4,dtype=bf16"), shapes, (7, 5))


def test_what_was_compiled_before_needs_no_compiler(
    widths: Any, machine: Any, tmp_path: Any
) -> None:
    machine("neither")
    built = tmp_path / "marlin_fp16" / "0123"
    built.mkdir(parents=True)
    (built / "gptqmodel_marlin_fp16_ops.so").touch()
    choice = kernel_for(parse_variant("int4"), widths["Llama-3-8B"], (8, 9))
    assert choice == KernelChoice("MarlinLinear", extensions=("marlin_fp16",))


def test_what_was_compiled_for_another_torch_is_found_out_before_loading(
    widths: Any, machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from gptqmodel import extension

    def fail(name: str) -> None:
        raise RuntimeError("CUDA_HOME environment variable is not set")

    monkeypatch.setattr(extension, "load", fail)
    machine("no nvcc")
    (tmp_path / "marlin_fp16" / "0123").mkdir(parents=True)
    (tmp_path / "marlin_fp16" / "0123" / "gptqmodel_marlin_fp16_ops.so").touch()
    made = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
    shapes = widths["Llama-3-8B"]
    build(settle(made, shapes, (8, 9), "float16"), "int4", lambda event: None)
    settled = settle(made, shapes, (8, 9), "float16")
    assert settled is not None and settled[1].kernel == "TritonV2Linear"
    assert "CUDA_HOME" in settled[1].reason


def test_a_kernel_asked_for_is_never_replaced(widths: Any, machine: Any) -> None:
    machine("whole")
    shapes = widths["Llama-3-8B"]

    def asked(kernel: str, on: Capability, of: dict[str, Shape] = shapes) -> str:
        choice = kernel_for(parse_variant(f"int4,group_size=64,kernel={kernel}"), of, on)
        assert choice is not None
        return choice.kernel

    assert asked("triton", (8, 9)) == "TritonV2Linear"
    assert asked("machete", (9, 0)) == "MacheteLinear"
    with pytest.raises(VariantError, match=r"does not run on compute capability 8\.9.*kernel=auto"):
        asked("machete", (8, 9))
    with pytest.raises(VariantError, match=r"cannot take .* of 576 × 576 weights"):
        asked("machete", (9, 0), widths["SmolLM2-135M"])
    with pytest.raises(VariantError, match="cannot run GPTQ in 4 bit on cpu"):
        asked("marlin", None)
    machine("no nvcc")
    with pytest.raises(VariantError, match=r"needs nvcc of CUDA 13.*apt install cuda-toolkit"):
        asked("marlin", (8, 9))


def test_awq_of_others(machine: Any, widths: Any) -> None:
    made = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}
    shapes = widths["SmolLM2-135M"]

    def settled(on: Capability) -> str | None:
        found = settle(made, shapes, on, "bfloat16")
        return found[1].kernel if found else None

    machine("whole")
    assert [settled(card) for card in CARDS] == ["AwqMarlinLinear"] * 3
    assert settled(None) == "TorchAtenAwqLinear"
    machine("no nvcc")
    assert settled((9, 0)) == "AwqGEMMTritonLinear"
    machine("neither")
    assert settled((9, 0)) == "AwqTorchLinear"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], None]:
    """A card of some capability, as far as GPTQModel asks."""
    from gptqmodel.nn_modules.qlinear import marlin, marlin_awq

    def become(capability: tuple[int, int]) -> None:
        memory = {"shared_memory_per_block": 2**16, "shared_memory_per_block_optin": 2**20}
        properties = SimpleNamespace(name="card", **memory)
        for name, answer in (
            ("is_available", True),
            ("device_count", 1),
            ("get_device_capability", capability),
            ("get_device_properties", properties),
        ):
            monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
        for module in (marlin, marlin_awq):
            monkeypatch.setattr(module, "marlin_import_exception", None)

    return become


@pytest.mark.parametrize("capability", CARDS)
@pytest.mark.parametrize(
    ("words", "name"),
    [("int4,group_size=64", name) for name in MACHINES]
    + [("int8@gptq", "whole"), ("int3", "whole"), ("int4,group_size=64,desc_act=true", "whole")],
)
def test_the_library_makes_every_layer_of_the_settled_kernel(
    widths: Any, machine: Any, card: Any, capability: tuple[int, int], words: str, name: str
) -> None:
    from gptqmodel.utils.importer import hf_select_quant_linear_v2

    machine(name)
    card(capability)
    variant = parse_variant(words)
    for model, choice in choices(words, widths, capability):
        layout = Layout(
            "gptq",
            int(variant.precision[3:]),
            int(str(variant.option("group_size", 128))),
            True,
            bool(variant.option("desc_act", False)),
            "float16",
        )
        kernel, _ = kernels.choose({layout: widths[model]}, capability)
        settings = (layout.bits, layout.group_size, layout.reorders, layout.symmetric)
        with silence():
            made = hf_select_quant_linear_v2(
                *settings, "gptq", "gptq", device_map={"": "cuda"}, backend=kernel.selector,
                pack=False,
            )  # fmt: skip
            assert made.__name__ == choice.kernel == kernel.layer
            # As optimum makes them, on no device, where they cost nothing.
            with torch.device("meta"):
                for rows, columns in set(widths[model].values()):
                    made(*settings, columns, rows, False, weight_dtype=torch.float16)


@pytest.mark.parametrize("capability", CARDS)
def test_the_librarys_own_choice_on_hopper_fails_at_load(
    widths: Any, card: Any, capability: tuple[int, int]
) -> None:
    """Why evalkit settles the kernel itself; without this it would be needless."""
    from gptqmodel.utils.importer import hf_select_quant_linear_v2

    card(capability)
    with silence():
        own = hf_select_quant_linear_v2(
            4, 64, False, True, "gptq", "gptq", device_map={"": "cuda"}, pack=False
        )
        assert own.__name__ == ("MacheteLinear" if capability == (9, 0) else "MarlinLinear")
        if own.__name__ == "MacheteLinear":
            with torch.device("meta"), pytest.raises(NotImplementedError):
                own(4, 64, False, True, 576, 192, False, weight_dtype=torch.float16)


def test_a_build_shows_progress_and_a_failed_one_gives_the_next_kernel(
    widths: Any, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptqmodel import extension

    def fail(name: str) -> None:
        time.sleep(0.05)
        raise RuntimeError(f"Extension load failed:\n- {name}: ninja: build stopped")

    monkeypatch.setattr(extension, "load", fail)
    monkeypatch.setattr(kernels, "TOLD_EVERY", 0.01)
    machine("whole")
    made = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
    shapes = widths["Llama-3-8B"]
    events: list[Event] = []
    build(settle(made, shapes, (9, 0), "float16"), "int4", events.append)
    steps = [event for event in events if event.total]
    assert steps and {event.total for event in steps} == {120}
    assert "compiling MarlinLinear, once on this machine" in steps[0].stage
    assert events[-1].message == (
        "marlin_fp16 could not be compiled (marlin_fp16: ninja: build stopped): the next kernel"
        " runs instead"
    )
    settled = settle(made, shapes, (9, 0), "float16")
    assert settled is not None
    assert settled[1].kernel == "TritonV2Linear"
    assert "ninja: build stopped" in settled[1].reason
    assert "extension.load('marlin_fp16')" in settled[1].notes[0]


def test_without_a_network_only_a_kernel_that_was_asked_for_fails(
    widths: Any, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptqmodel import extension

    asked = []

    def offline(name: str) -> None:
        asked.append(name)
        if name == "machete":
            raise RuntimeError("<urlopen error Name or service not known>")

    monkeypatch.setattr(extension, "load", offline)
    machine("whole")
    made = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
    for kernel in ("auto", "machete"):
        settled = settle(made, widths["Llama-3-8B"], (9, 0), "float16", kernel)
        build(settled, "int4", lambda event: None)
    assert asked == ["marlin_fp16", "machete"]
    with pytest.raises(VariantError, match=r"could not be compiled .*urlopen error"):
        settle(made, widths["Llama-3-8B"], (9, 0), "float16", "machete")


def test_on_a_cpu_nothing_has_changed(widths: Any) -> None:
    shapes = widths["demo"]
    for words, kernel in (
        ("int4", "TorchAtenLinear"),
        ("int4,group_size=16", "TorchLinear"),
        ("int8@gptq", "TorchLinear"),
    ):
        choice = kernel_for(parse_variant(words), shapes, None)
        assert choice is not None and choice.kernel == kernel and not choice.notes


def test_widths_of_a_packed_checkpoint(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    packed = torch.zeros(576 // 8, 192, dtype=torch.int32)
    save_file({"model.layers.0.k_proj.qweight": packed}, tmp_path / "model.safetensors")
    made = {"quant_method": "gptq", "bits": 4}
    assert packed_shapes(tmp_path, made) == {"model.layers.0.k_proj": (192, 576)}
    save_file(
        {"model.layers.0.k_proj.qweight": torch.zeros(576, 192 // 8, dtype=torch.int32)},
        tmp_path / "model.safetensors",
    )
    assert packed_shapes(tmp_path, made | {"quant_method": "awq"}) == {
        "model.layers.0.k_proj": (192, 576)
    }


def test_marlins_padding_is_planned_as_the_library_pads(widths: Any) -> None:
    from gptqmodel.utils.marlin import marlin_padded_nk

    shapes = [shape for of in widths.values() for shape in of.values()]
    for bits, group in product((4, 8), (-1, 32, 64, 128)):
        work = _schemes.grouped("GPTQ", bits, group, True).cuda
        for shape in shapes:
            assert footprint._padded(*shape, work) == marlin_padded_nk(*shape, group)
    # Other kernels, and columns in the order of activations, are not padded.
    for group, symmetric, reorders in ((64, False, False), (16, True, False), (64, True, True)):
        scheme = _schemes.grouped("GPTQ", 4, group, symmetric, reorders=reorders)
        assert scheme.cuda == scheme.cpu == footprint.NO_WORK


@pytest.mark.parametrize(
    ("words", "kernel"),
    [
        ("int4", "MarlinLinear"),
        ("int8@gptq", "MarlinLinear"),
        ("int4@bitsandbytes", "Linear4bit"),
        ("int8", "Linear8bitLt"),
        ("int8@torchao", "Linear Int8Tensor"),
        ("int4@torchao", "Linear Int4TilePackedTo4dTensor"),
    ],
)
def test_every_kernel_takes_the_demo_on_an_rtx_4090(
    widths: Any, machine: Any, words: str, kernel: str
) -> None:
    machine("whole")
    choice = kernel_for(parse_variant(words), widths["demo"], (8, 9))
    assert choice is not None
    assert (choice.kernel, choice.reason) == (kernel, "")


def test_no_layer_of_the_demo_takes_a_slow_way_on_a_card(widths: Any) -> None:
    marlin = _schemes.grouped("GPTQ", 4, 128, True).cuda
    for outputs, inputs in widths["demo"].values():
        assert footprint._padded(outputs, inputs, marlin) == (outputs, inputs)
        assert inputs % 128 == 0
        # bitsandbytes unpacks a weight whose inputs are no whole blocks of 64, and multiplies
        # 8-bit inputs in float32 where they are no multiple of 4.
        assert inputs % 64 == outputs % 4 == 0
