"""What torch's CUDA build does on a machine without a card: child processes, and fused kernels.

Children: torch refuses CUDA in a process that was forked after its parent had touched CUDA ("bad
fork"). Each case is a forkserver of its own with every optional package installed: evalkit's own
start of a child, the same with CUDA not hidden from the libraries, each package alone, and a
spawned process. Twice: as this machine is (no driver), and with torch's answers replaced by those
of a machine with one card, so that libraries go on to initialise it.

Kernels: Phi-3 Small's fused attention at the geometries of the 8k model and of the demo, in
float16 and bfloat16, for one length and for lengths that vary, compiled by Inductor and Triton
for a card of capability 8.9 that is not there; a block may use 99 KB of shared memory.

It needs torch's CUDA build, so an environment of its own (about 8 GB of disk), and no card:

    python -m venv DIR
    DIR/bin/pip install 'torch<2.14'            # from PyPI: the build for CUDA
    DIR/bin/pip install -c constraints.txt -e '.[torchao,ray]'
    DIR/bin/python benchmarks/cuda_wheel.py
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _common import ROOT, table, write_results

HERE = Path(__file__).resolve().parent
SHARED_MEMORY = 99 * 1024
PRELOADED = (
    "evalkit.models.phi3_small", "evalkit.running.compare.tasks", "evalkit.running.compare.worker",
)  # fmt: skip
# Rows and tokens of batches that follow one another.
BATCHES = {
    "8k model": ((1, 4096), (3, 6000), (2, 1100)),
    "demo": ((1, 512), (3, 1000), (2, 300)),
}


def child(card: bool, imports: tuple[str, ...], *, hidden: bool, start: str) -> dict[str, Any]:
    """What a child of a fresh interpreter reports; `start` is "evalkit", "imports" or "spawn"."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "CUDA_WHEEL_CARD": "1" if card else "",
        "CUDA_WHEEL_HIDDEN": "1" if hidden else "",
        "CUDA_WHEEL_IMPORTS": ",".join(imports),
    }
    command = [sys.executable, __file__, "--child", start]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def report_of(start: str) -> dict[str, Any]:
    """Start a child of this process the way named, and return what it reports."""
    import _cuda_children

    if start == "spawn":
        import _cuda_preload  # noqa: F401  this process has touched CUDA too

        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_cuda_children.send_report, args=(sender,))
        process.start()
        found: dict[str, Any] = receiver.recv()
        process.join()
        return found
    from evalkit.progress import ignore
    from evalkit.running import process

    # What answers for a card must be there before evalkit's own preload is imported.
    process.PRELOAD[:] = ["_cuda_preload", *(process.PRELOAD if start == "evalkit" else [])]
    found = process.run_child(_cuda_children.report, None, ignore)
    return found


def children() -> list[dict[str, Any]]:
    from _cuda_children import PACKAGES

    installed = [name for name in PACKAGES if importlib.util.find_spec(name)]
    cases: list[tuple[str, tuple[str, ...], bool, str]] = [
        ("evalkit's own start", (), False, "evalkit"),
        ("the same imports, CUDA not hidden", PRELOADED, False, "imports"),
        *((f"{name} alone, CUDA not hidden", (name,), False, "imports") for name in installed),
        ("all packages, CUDA hidden", tuple(installed), True, "imports"),
        ("a spawned process, all packages", tuple(installed), False, "spawn"),
    ]
    found = []
    for card in (False, True):
        for name, imports, hidden, start in cases:
            answers = "one card, answered for" if card else "no driver"
            print(f"  {answers}: {name}", file=sys.stderr, flush=True)
            result = child(card, imports, hidden=hidden, start=start)
            found.append({"machine": answers, "start": name, **result})
    return found


def kernels(folder: Path) -> list[dict[str, Any]]:
    """The fused kernels of both geometries, in both dtypes, for any length and for one."""
    from _absent_card import absent_card

    from evalkit.demo_data import demo_directory
    from evalkit.models.phi3_small.configuration import Phi3SmallConfig

    configs = {
        "8k model": Phi3SmallConfig(),
        "demo": Phi3SmallConfig.from_pretrained(demo_directory() / "model"),
    }
    cases = product(configs.items(), (torch.float16, torch.bfloat16), ("dynamic", "static"))
    found = []
    for (name, config), dtype, kind in cases:
        print(f"  {name}, {dtype}, {kind}", file=sys.stderr, flush=True)
        torch.compiler.reset()
        place = folder / f"{name}-{dtype}-{kind}".replace(" ", "-")
        place.mkdir()
        case = {"geometry": name, "dtype": str(dtype).removeprefix("torch."), "lengths": kind}
        with absent_card():
            made = traced(config, BATCHES[name], dtype, dynamic=kind == "dynamic")
            found += [case | one for one in machine_code(made, place)]
    return found


def traced(
    config: Any, batches: tuple[tuple[int, int], ...], dtype: torch.dtype, *, dynamic: bool
) -> list[dict[str, str]]:
    """The kernels of each graph that is traced of block-sparse attention, by name.

    `dynamic` as evalkit runs it, batch after batch; else of the first length alone, fixed.
    """
    from _absent_card import generating

    from evalkit.models.phi3_small import flex
    from evalkit.models.phi3_small.sparse import BlockPattern

    pattern = BlockPattern.from_config(config)
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size = config.hidden_size // heads
    found: list[dict[str, str]] = []
    options: dict[str, Any] = {} if dynamic else {"dynamic": False}
    run = torch.compile(flex.attend, fullgraph=True, backend=generating(found), **options)
    for rows, length in batches if dynamic else batches[:1]:
        query, key, value = (
            torch.empty(rows, count, length, size, dtype=dtype, device="cuda")
            for count in (heads, groups, groups)
        )
        with torch.inference_mode(), patch.object(flex, "_compiled", lambda: run):
            if dynamic:
                flex.flex_attention(query, key, value, pattern, scaling=1 / size)
            else:
                blocks = flex.needed_blocks(pattern, length, query.device)
                run(query, key, value, blocks, pattern, 1 / size)
    return found


def machine_code(graphs: list[dict[str, str]], folder: Path) -> list[dict[str, Any]]:
    """Each kernel of each graph as the card's machine code."""
    from _absent_card import compiled

    found = []
    for number, sources in enumerate(graphs):
        for name, source in sources.items():
            begun = time.perf_counter()
            one = asdict(compiled(name, source, folder))
            # Inductor hands a length that may vary to the kernel as an argument of this name.
            one |= {"any_length": "'ks0'" in source, "fits": one["shared"] <= SHARED_MEMORY}
            seconds = round(time.perf_counter() - begun, 1)
            found.append({"graph": number + 1, **one, "seconds": seconds})
    return found


def show(content: dict[str, list[dict[str, Any]]]) -> None:
    header = ["child", "machine", "bad fork", "CUDA was initialised before", "torch says"]
    table("Children", [header] + [
        [one["start"], one["machine"], "yes" if one["bad_fork"] else "no",
         f"{one['initialised_before']} times", one["says"][:60]]
        for one in content.get("children", ())
    ])  # fmt: skip
    header = ["kernel", "geometry", "dtype", "length", "shared", "registers", "spilled", "warps"]
    table(f"Fused attention at capability 8.9 (at most {SHARED_MEMORY} bytes shared)", [header] + [
        [one["name"], one["geometry"], one["dtype"],
         "any" if one["any_length"] else "one", str(one["shared"]),
         str(one["registers"]), str(one["spilled"]), str(one["warps"])]
        for one in content.get("kernels", ())
    ])  # fmt: skip


def faults(content: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What is not as it must be: one line each."""
    found = [
        f"{one['start']} ({one['machine']}): {one['says']}"
        for one in content.get("children", ())
        if one["bad_fork"] and "not hidden" not in one["start"]
    ]
    for one in content.get("kernels", ()):
        what = f"{one['name']} ({one['geometry']}, {one['dtype']}, {one['lengths']})"
        if not one["fits"]:
            found.append(f"{what} needs {one['shared']} bytes of shared memory")
        if one["any_length"] != (one["lengths"] == "dynamic"):
            found.append(f"{what} was not compiled for {one['lengths']} lengths")
        if one["graph"] > 1:
            found.append(f"{what} was traced again")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=("children", "kernels"))
    options = parser.parse_args()
    if options.child:
        print(json.dumps(report_of(options.child)))
        return
    if torch.version.cuda is None:
        print(f"torch {torch.__version__} has no CUDA: --help says which environment has")
        return
    content: dict[str, list[dict[str, Any]]] = {}
    if options.only != "kernels":
        content["children"] = children()
    if options.only != "children":
        with tempfile.TemporaryDirectory() as folder:
            # Nothing compiled earlier is found.
            os.environ["TRITON_CACHE_DIR"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            content["kernels"] = kernels(Path(folder))
    show(content)
    wrong = faults(content)
    for line in wrong:
        print(f"  wrong: {line}")
    if not options.only:
        simulated = {
            "one card, answered for": "torch's answers about devices; no driver is asked",
            "kernels": "the card's properties and tensors without storage; code generation,"
            " Triton and ptxas are the real ones; no kernel ran",
        }
        cuda = {"torch": torch.__version__, "cuda": torch.version.cuda, "simulated": simulated}
        print(f"  {write_results('cuda-wheel', cuda | content | {'wrong': wrong})}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
