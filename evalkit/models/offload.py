"""Models larger than their device: what does not fit waits in main memory or on disk.

accelerate moves each module to the device when it runs, so results are the same and speed is that
of the bus or the disk. It is never done unless a variant asks for it (`fp16@transformers,
offload=true`, or `--offload`).
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from typing import Any

import psutil
import torch

# Of the free memory; the rest is for the cache, activations and the module that is on its way.
_FOR_WEIGHTS = 0.7


def placement(device: str) -> dict[str, Any]:
    """Words for `from_pretrained` that fill `device` first, then main memory, then the disk."""
    room: dict[int | str, int] = {"cpu": int(_FOR_WEIGHTS * psutil.virtual_memory().available)}
    if device != "cpu":
        number = int(device.partition(":")[2] or 0)
        room[number] = int(_FOR_WEIGHTS * torch.cuda.mem_get_info(number)[0])
    folder = tempfile.mkdtemp(prefix="evalkit-offload-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"device_map": "auto", "max_memory": room, "offload_folder": folder}


def offloaded(model: Any) -> dict[str, int]:
    """How many entries of the model's device map lie in main memory ("cpu") and on "disk".

    Main memory counts only where the model runs on a GPU.
    """
    places = [str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()]
    away = {"disk"} if set(places) <= {"cpu", "disk"} else {"cpu", "disk"}
    return {place: places.count(place) for place in sorted(away & set(places))}


def offload_note(model: Any) -> tuple[str, ...]:
    """The line for the run's record: what lies where; none where everything fitted."""
    total = len(getattr(model, "hf_device_map", None) or {})
    names = {"cpu": "in main memory", "disk": "on disk"}
    found = [f"{count} {names[place]}" for place, count in offloaded(model).items()]
    if not found:
        return ("offload: everything fitted, nothing was offloaded",)
    return (
        f"offload: of {total} modules {', '.join(found)}: speed is that of moving them, not of the"
        " device",
    )
