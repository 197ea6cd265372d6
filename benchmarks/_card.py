"""What CUDA says of an RTX 4090, for stand-ins on machines without one."""

from __future__ import annotations

from types import SimpleNamespace

CAPABILITY = (8, 9)
# In the names of torch.cuda.get_device_properties; memory in bytes.
PROPERTIES = SimpleNamespace(
    name="NVIDIA GeForce RTX 4090",
    major=CAPABILITY[0],
    minor=CAPABILITY[1],
    multi_processor_count=128,
    max_threads_per_block=1024,
    max_threads_per_multi_processor=1536,
    regs_per_multiprocessor=65536,
    shared_memory_per_block_optin=101376,
    L2_cache_size=75497472,
    total_memory=24 * 2**30,
    warp_size=32,
)
