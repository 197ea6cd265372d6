"""What is looked up of this machine: files, NVML, the hub, and torch in a child."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from evalkit.backends import check_installed, kernel_for, parse_variant, spec_of
from evalkit.errors import EvalkitError, ModelError
from evalkit.models import hub
from evalkit.models.resolve import is_here, repository, resolve_config, weights_here
from evalkit.options import DoctorOptions
from evalkit.processors import threads
from evalkit.progress import Listener, ignore
from evalkit.records.findings import MachineCheck
from evalkit.running.defaults import choose_model
from evalkit.running.environment import processor_name
from evalkit.running.gpus import Gpu, driver_versions, gpus, torch_build
from evalkit.running.process import run_child
from evalkit.store.store import Store

VARIANTS = ("fp16", "int8", "int4@gptq", "int4@bitsandbytes", "int8@torchao", "int4@torchao")
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA, _DISPLAY = "0x10de", "0x03"
# Of 16-bit weights: the smallest variant loaded, and quantized checkpoints of INT8 and INT4.
_SMALLEST, _CHECKPOINTS = 0.3, 0.8


@dataclass(frozen=True)
class CardFacts:
    """What a card needs to run torch's kernels; versions in words, "" for what is not there.

    `asked` says that CUDA was asked for by name. `architectures` are those that torch is built for,
    `least_bytes` what the model's smallest variant takes of a card's memory.
    """

    torch: str
    torch_cuda: str = ""
    present: bool = False
    driver: str = ""
    driver_cuda: str = ""
    cards: tuple[Gpu, ...] = ()
    architectures: tuple[str, ...] = ()
    cuda_error: str = ""
    least_bytes: float = 0.0
    asked: bool = False


@dataclass(frozen=True)
class Facts:
    """What this machine is; sizes in bytes, "" for what is not missing.

    `store_bytes` is what the model's quantized checkpoints take on disk, `fetched_bytes` what is
    still on the hub.
    """

    card: CardFacts
    processor: str
    memory: int
    memory_free: int
    model: str
    store: Path
    store_free: int
    cache: Path
    cache_free: int
    missing_for_cuda: str = ""
    fix_for_cuda: str = ""
    missing_for_triton: str = ""
    fix_for_triton: str = ""
    kernels: tuple[MachineCheck, ...] = ()
    model_error: str = ""
    fetched_bytes: int = 0
    store_bytes: float = 0.0


@dataclass(frozen=True)
class _Build:
    """What the compilers and libraries here make of a card."""

    tools: tuple[str, str, str, str]
    kernels: tuple[MachineCheck, ...]


def look(options: DoctorOptions) -> Facts:
    """Everything the doctor needs to know; the network is asked once, for seconds at most."""
    offline, asked = options["offline"], options["model"]
    cards = gpus() if options["device"] != "cpu" else ()
    device = "cuda" if cards else "cpu"
    model, _ = choose_model(None if asked is None else str(asked), device, offline=offline)
    error, fetched, weights = _model(model, offline=offline)
    store, cache = Store(options["out"]).root, hub.cache_folder()
    build = _build(model, cards[0].capability if cards else None, offline=offline)
    memory = psutil.virtual_memory()
    card = look_at_cards(cards, weights, wanted=options["device"] != "cpu")
    return Facts(
        card=dataclasses.replace(card, asked=options["device"].startswith("cuda")),
        processor=f"{processor_name()}, {threads()} threads",
        memory=memory.total,
        memory_free=memory.available,
        model=model,
        store=store,
        store_free=hub.free_bytes(store),
        cache=cache,
        cache_free=hub.free_bytes(cache),
        missing_for_cuda=build.tools[0],
        fix_for_cuda=build.tools[1],
        missing_for_triton=build.tools[2],
        fix_for_triton=build.tools[3],
        kernels=build.kernels,
        model_error=error,
        fetched_bytes=fetched,
        store_bytes=_CHECKPOINTS * weights,
    )


def look_at_cards(cards: tuple[Gpu, ...], weights: float, *, wanted: bool = True) -> CardFacts:
    """What concerns the cards, for a model of `weights` bytes in 16 bit: seconds at most."""
    version, torch_cuda = torch_build()
    driver, driver_cuda = driver_versions()
    architectures, error = (), ""
    if cards:
        architectures, error = run_child(_ask_cuda, None, ignore, gpu=cards[0].word)
    return CardFacts(
        torch=version,
        torch_cuda=torch_cuda,
        present=wanted and (bool(cards or driver) or _card_in_bus()),
        driver=driver,
        driver_cuda=driver_cuda,
        cards=cards,
        architectures=architectures,
        cuda_error=error,
        least_bytes=_SMALLEST * weights,
    )


def _model(name: str, *, offline: bool) -> tuple[str, int, int]:
    """Why the model cannot be had, bytes to fetch, and bytes of its weights."""
    try:
        files = weights_here(name)
    except ModelError as error:
        if (found := repository(name)) is None:
            return str(error), 0, 0
        if offline:
            return "not in the cache, and --offline was given", 0, 0
        try:
            size = hub.download_bytes(found)
        except ModelError as unreachable:
            return str(unreachable), 0, 0
        return "", size, size
    return "", 0, sum(file.stat().st_size for file in files)


def _card_in_bus() -> bool:
    """Whether an NVIDIA display device is plugged in, whatever drivers say."""
    for device in _PCI.glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == _NVIDIA and kind.startswith(_DISPLAY):
            return True
    return bool(shutil.which("nvidia-smi"))


def _ask_cuda(_: None, send: Listener) -> tuple[tuple[str, ...], str]:
    """In a child: what torch is built for, and why it does not reach the card, "" where it does."""
    import torch

    built = getattr(torch._C, "_cuda_getArchFlags", lambda: "")() or ""
    try:
        torch.zeros(1, device="cuda").item()
    except (RuntimeError, AssertionError) as failure:
        return tuple(built.split()), str(failure).partition("\n")[0]
    return tuple(built.split()), ""


def _build(model: str, capability: tuple[int, int] | None, *, offline: bool) -> _Build:
    """The tools that compile kernels, and which kernels run; imports torch, touches no CUDA."""
    from evalkit.models.cuda_build import install_line, missing_for_cuda_build
    from evalkit.models.toolchain import missing_for_triton

    for_cuda, for_triton = missing_for_cuda_build() or "", missing_for_triton() or ""
    tools = (for_cuda, install_line(for_cuda), for_triton, install_line(for_triton))
    return _Build(tools, tuple(_kernels(model, capability, offline=offline)))


def _kernels(
    model: str, capability: tuple[int, int] | None, *, offline: bool
) -> Iterator[MachineCheck]:
    """Which class would run each backend's layers over the model's widths, or why none."""
    from evalkit.models.shapes import decoder_shapes

    try:
        checkpoint = resolve_config(model, offline=offline)
        if is_here(model):
            # Headers of files tell the widths in no time; a model on the meta device takes seconds.
            checkpoint = dataclasses.replace(checkpoint, weight_files=weights_here(model))
        shapes = decoder_shapes(checkpoint)
    except EvalkitError:
        shapes = {}
    for word in VARIANTS:
        name = f"kernel of {word}"
        try:
            variant = parse_variant(word)
            check_installed(spec_of(variant))
            found = kernel_for(variant, shapes, capability) if shapes else None
        except EvalkitError as error:
            yield MachineCheck(name, "warning", f"none: {error}", f"leave out {word}")
            continue
        if found is None:
            yield MachineCheck(name, "unknown", "known when the layers are loaded")
        elif found.fix:
            yield MachineCheck(name, "warning", f"{found.kernel}: {found.reason}", found.fix)
        else:
            yield MachineCheck(name, "good", found.kernel)
