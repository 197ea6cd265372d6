"""What compiling a CUDA extension at first use takes, and whether this machine has it.

A kernel that is compiled when it first runs fails there, after minutes or hours of work. So the
compiler, the build tool and the headers are looked for beforehand, where torch's own build looks
for them (torch.utils.cpp_extension).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_DEFAULT_HOME = Path("/usr/local/cuda")
_RELEASE = re.compile(r"release (\d+)\.(\d+)")
# Of the toolkit: what torch's own headers and a matrix product include.
HEADERS = ("cuda_runtime_api.h", "cusparse.h", "cublas_v2.h", "cublasLt.h", "cusolverDn.h")


def capability(device: str) -> tuple[int, int] | None:
    """Compute capability of a CUDA device, such as (8, 9); None for a CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return major, minor


def missing_for_cuda_build() -> str | None:
    """What this machine lacks to compile a CUDA extension, in words; None where it has all."""
    missing = [name for name in ("g++", "ninja") if not shutil.which(name)]
    home = _toolkit()
    if home is None:
        missing.append(_nvcc_for_torch())
    elif other := _other_release(home / "bin" / "nvcc"):
        missing.append(f"{_nvcc_for_torch()} (found {other})")
    missing += [f"CUDA's headers ({name})" for name in _absent_headers(home)][:1]
    return " and ".join(missing) or None


def install_line(missing: str) -> str:
    """The command that brings what `missing_for_cuda_build` or `missing_for_triton` named."""
    toolkit = f"sudo apt install {_toolkit_package()}"
    commands = {
        "g++": "sudo apt install g++",
        "ninja": "pip install ninja",
        "nvcc": toolkit,
        "CUDA's headers": toolkit,
        "package triton": "pip install triton",
        "gcc": "sudo apt install gcc",
        "Python.h": "sudo apt install python3-dev",
    }
    needed = [command for word, command in commands.items() if word in missing]
    return " && ".join(dict.fromkeys(needed))


def _toolkit() -> Path | None:
    """The directory of the CUDA toolkit with its compiler, chosen as torch chooses it."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = shutil.which("nvcc")
    home = Path(named) if named else Path(found).parent.parent if found else _DEFAULT_HOME
    return home if (home / "bin" / "nvcc").is_file() else None


def _other_release(nvcc: Path) -> str:
    """The release of `nvcc` where torch would refuse it, as it is not of torch's CUDA; else ""."""
    wanted = _torch_cuda()
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error.strerror)
    release = _RELEASE.search(said.stdout)
    if release is None or not wanted or release[1] == wanted.partition(".")[0]:
        return ""
    return f"{release[1]}.{release[2]}"


def _absent_headers(home: Path | None) -> Iterator[str]:
    folders = [*([home / "include"] if home else []), *_wheel_folders()]
    if path := os.environ.get("CUDA_PATH"):
        folders.append(Path(path) / "include")
    for name in HEADERS:
        if not any((folder / name).is_file() for folder in folders):
            yield name


def _wheel_folders() -> list[Path]:
    """Folders of headers that come with torch's own CUDA packages."""
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec is not None else None
    return [folder for root in roots or () for folder in Path(root).glob("*/include")]


def _torch_cuda() -> str:
    import torch

    return torch.version.cuda or ""


def _nvcc_for_torch() -> str:
    major = _torch_cuda().partition(".")[0]
    return f"nvcc of CUDA {major}" if major else "nvcc"


def _toolkit_package() -> str:
    """The package of NVIDIA's repository with compiler and headers of torch's CUDA."""
    release = _torch_cuda().replace(".", "-")
    return f"cuda-toolkit-{release}" if release else "cuda-toolkit"
