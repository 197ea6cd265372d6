"""`evalkit doctor` without a variant: what this machine has and lacks, in seconds.

What is there is looked up in `machine_facts`; here facts become checks, each with the command that
mends what is not good.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evalkit.errors import UsageError
from evalkit.models.hub import cache_folder, free_bytes
from evalkit.options import DoctorOptions
from evalkit.records.findings import MachineCheck, MachineReport
from evalkit.running.doctor.machine_facts import CardFacts, Facts, look, look_at_cards
from evalkit.running.gpus import gpu_of

# Each CUDA release runs on the driver that came with its first version, and on later ones.
_DRIVER = "sudo ubuntu-drivers install (or https://www.nvidia.com/drivers), then restart"
_TORCH = "pip install --upgrade torch -i https://download.pytorch.org/whl/"
# Less free memory of a card than this share is somebody else's doing.
_MOSTLY_FREE = 0.8
_LEAST_MEMORY = 4e9


def examine_machine(options: DoctorOptions) -> MachineReport:
    """Every check of this machine for the model of the options; CUDA begins in a child only."""
    return report(look(options))


def report(facts: Facts) -> MachineReport:
    """The checks that follow from `facts`."""
    return MachineReport(tuple(_checks(facts)))


def refuse_unready(
    card: str, weights: float, store: Path, needed: float, *, fetched: float = 0.0
) -> None:
    """Raise UsageError in seconds where a command would fail later: the cheap checks.

    `card` is the word of the card to be used, `weights` bytes of the model's files, `needed` bytes
    that the store must take, `fetched` those that the hub's cache must.
    """
    gpu = gpu_of(card)
    found = look_at_cards((gpu,), weights) if gpu else None
    checks = [*_driver(found), *_torch(found), *_cards(found)] if found else []
    checks.append(_disk("disk of the store", store, needed, free_bytes(store), "--out DIR"))
    if fetched:
        checks.append(_cache_disk(cache_folder(), fetched, free_bytes(cache_folder())))
    for check in checks:
        if check.status == "broken":
            raise UsageError(f"{check.name}: {check.found}; to mend it: {check.fix}")


def _checks(facts: Facts) -> Iterator[MachineCheck]:
    yield MachineCheck("processor", "good", facts.processor)
    yield _main_memory(facts)
    yield from _driver(facts.card)
    yield from _torch(facts.card)
    yield from _cards(facts.card)
    if facts.card.present:
        yield _tools("CUDA build tools", facts.missing_for_cuda, facts.fix_for_cuda)
        yield _tools("Triton's compiler", facts.missing_for_triton, facts.fix_for_triton)
    yield from facts.kernels
    yield _model(facts)
    yield from _disks(facts)


def _main_memory(facts: Facts) -> MachineCheck:
    found = f"{_gigabytes(facts.memory_free)} free of {_gigabytes(facts.memory)}"
    if facts.memory_free < _LEAST_MEMORY:
        return MachineCheck("memory", "warning", found, "end programs that hold memory (ps, top)")
    return MachineCheck("memory", "good", found)


def _driver(facts: CardFacts) -> Iterator[MachineCheck]:
    if not facts.present and facts.asked:
        yield MachineCheck("driver", "broken", "no NVIDIA card here", "leave out --device")
    elif not facts.present:
        yield MachineCheck("driver", "good", "no NVIDIA card here: everything runs on the CPU")
    elif facts.driver:
        yield MachineCheck("driver", "good", f"{facts.driver}, for CUDA up to {facts.driver_cuda}")
    elif facts.cards:
        yield MachineCheck(
            "driver", "warning", "works, but NVML is missing: energy cannot be measured",
            "give the container the utility capability: NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        )  # fmt: skip
    else:
        yield MachineCheck("driver", "broken", "a card is there and no driver answers", _DRIVER)


def _torch(facts: CardFacts) -> Iterator[MachineCheck]:
    found = f"{facts.torch} for {facts.torch_cuda or 'the CPU'}"
    if not facts.present or (not facts.driver and not facts.cards):
        yield MachineCheck("torch", "good", found)
    elif not facts.torch_cuda:
        yield MachineCheck(
            "torch", "broken", f"{found}: it cannot use the card", _TORCH + _wheel(facts)
        )
    elif _older(facts.driver_cuda, facts.torch_cuda):
        yield MachineCheck(
            "torch", "broken", f"{found}, and the driver ends at CUDA {facts.driver_cuda}",
            f"{_DRIVER}; or {_TORCH}{_wheel(facts)}",
        )  # fmt: skip
    elif facts.cuda_error:
        yield MachineCheck(
            "torch", "broken", f"{found}: {facts.cuda_error}", "nvidia-smi (and restart)"
        )
    else:
        yield MachineCheck("torch", "good", found)


def _cards(facts: CardFacts) -> Iterator[MachineCheck]:
    for number, card in enumerate(facts.cards):
        name = f"cuda:{number}"
        arch = ".".join(map(str, card.capability))
        free = f"{_gigabytes(card.free)} free of {_gigabytes(card.memory)}"
        found = f"{card.name}, capability {arch}, {free}"
        if facts.architectures and not runs_on(facts.architectures, card.capability):
            built = ", ".join(facts.architectures)
            yield MachineCheck(
                name, "broken", f"{found}: torch is built for {built} only",
                _TORCH + _wheel(facts),
            )  # fmt: skip
        elif card.free < facts.least_bytes:
            need = f"{found}: the model's smallest variant needs {_gigabytes(facts.least_bytes)}"
            yield MachineCheck(
                name,
                "broken",
                need,
                "end what nvidia-smi lists, or take another card: --device cuda:N",
            )
        elif card.free < _MOSTLY_FREE * card.memory:
            fix = "end what nvidia-smi lists: it takes memory, and disturbs speed"
            yield MachineCheck(name, "warning", f"{found}: others use it", fix)
        else:
            yield MachineCheck(name, "good", found)


def runs_on(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether code built for `architectures` ("sm_86", "compute_90") runs on `capability`.

    Binary code runs on its own major version from its minor one on, and PTX on all later cards.
    """
    for built in architectures:
        kind, _, digits = built.partition("_")
        number = digits.rstrip("af")
        if not number.isdigit():
            continue
        major, minor = divmod(int(number), 10)
        if kind == "compute" and (major, minor) <= capability:
            return True
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return True
    return False


def _tools(name: str, missing: str, fix: str) -> MachineCheck:
    if not missing:
        return MachineCheck(name, "good", "complete")
    return MachineCheck(name, "warning", f"missing: {missing}; slower kernels run instead", fix)


def _model(facts: Facts) -> MachineCheck:
    if facts.model_error:
        fix = (
            f"connect this machine, or elsewhere: hf download {facts.model} --local-dir DIR, copy"
            " DIR here, and give --model DIR"
        )
        return MachineCheck("model", "broken", f"{facts.model}: {facts.model_error}", fix)
    if facts.fetched_bytes:
        found = f"{facts.model}: the hub answers; {_gigabytes(facts.fetched_bytes)} will be fetched"
        return MachineCheck("model", "good", found)
    return MachineCheck("model", "good", f"{facts.model}: here")


def _disks(facts: Facts) -> Iterator[MachineCheck]:
    store, cache = facts.store, facts.cache
    yield _disk("disk of the store", store, facts.store_bytes, facts.store_free, "--out DIR")
    yield _cache_disk(cache, facts.fetched_bytes, facts.cache_free)


def _cache_disk(cache: Path, fetched: float, free: float) -> MachineCheck:
    return _disk("disk of the hub's cache", cache, fetched, free, "HF_HOME=DIR")


def _disk(name: str, folder: Path, needed: float, free: float, setting: str) -> MachineCheck:
    found = f"{folder}: {_gigabytes(free)} free, {_gigabytes(needed)} needed"
    if free >= needed:
        return MachineCheck(name, "good", found)
    return MachineCheck(name, "broken", found, f"free space, or choose another disk: {setting}")


def _older(one: str, other: str) -> bool:
    """Whether the driver's CUDA is of an earlier major version than torch's: those do not run."""
    return bool(one) and int(one.partition(".")[0]) < int(other.partition(".")[0])


def _wheel(facts: CardFacts) -> str:
    """The folder of torch's wheels for the newest CUDA that the driver runs."""
    major, _, minor = facts.driver_cuda.partition(".")
    known = ((13, 0, "cu130"), (12, 8, "cu128"), (12, 6, "cu126"))
    at_most = (int(major or 13), int(minor or 0))
    return next((name for a, b, name in known if (a, b) <= at_most), "cu126")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
