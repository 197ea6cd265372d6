"""Work on a Ray cluster: the parts of every variant, or the cells of a grid, as Ray tasks.

The store lies where the driver and all workers see it under one path. A worker writes its own runs
there, atomically and under a claim, as local processes do; a task that was lost with its worker is
started again and goes on with what the store holds.
"""

from __future__ import annotations

import dataclasses
import math
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from evalkit.errors import EvalkitError, InterruptedWorkError, UsageError, VariantError
from evalkit.processors import threads
from evalkit.progress import Event, Listener
from evalkit.running.gpus import resolve_device
from evalkit.running.job import Job, Part

INSTALL = "pip install 'evalkit[ray]'"
LOCAL = "local"
# How often a task that was lost with its worker is started again.
RETRIES = 3
POLL_SECONDS, SEND_SECONDS = 0.5, 1.0
CONNECT_SECONDS = 5.0
# A share of the texts should take much longer than loading a model: about a million tokens.
SHARE_BYTES, MOST_SHARES = 4 * 2**20, 64
RunVariant = Callable[[Job, Listener], None]


@dataclass(frozen=True)
class Shard:
    """One part of one variant; it starts when the shards `after` it (by index) have ended."""

    job: Job
    after: frozenset[int]

    @property
    def part(self) -> Part:
        """The only part of the job."""
        return self.job.parts[0]


def shards(jobs: Sequence[Job], shares: int = 1) -> list[Shard]:
    """Every part by itself, texts in `shares` of their windows and then put together.

    The first part of a variant makes its checkpoint, so the others wait for it; texts also wait
    for those of the baseline, whose hidden states they are compared with.
    """
    found: list[Shard] = []
    reference: set[int] = set()
    for job in jobs:
        first = len(found)
        for part in job.parts:
            index = len(found)
            after = set() if index == first else {first}
            if part.kind == "texts":
                after |= reference
                if shares > 1 and job.divergence:
                    pieces = [dataclasses.replace(part, share=(i, shares)) for i in range(shares)]
                    found += [_shard(job, piece, after) for piece in pieces]
                    after |= set(range(index, len(found)))
                if job.is_baseline:
                    reference = {len(found)}
            found.append(_shard(job, part, after))
    return found


def share_count(text_bytes: int) -> int:
    """In how many shares texts of this size are scored."""
    return max(1, min(MOST_SHARES, text_bytes // SHARE_BYTES))


def _shard(job: Job, part: Part, after: set[int]) -> Shard:
    return Shard(dataclasses.replace(job, parts=(part,)), frozenset(after))


def run_shards(
    found: Sequence[Shard],
    todo: Sequence[int],
    address: str,
    run: RunVariant,
    failed: Callable[[Job, EvalkitError], None],
    listener: Listener,
) -> None:
    """Run the shards `todo` of `found` on the cluster, as many at once as it has GPUs or CPUs.

    `run` measures shards of one variant where it is called; `failed` records those whose worker
    was lost more often than it is started again. Raises UsageError where there is no such cluster,
    and InterruptedWorkError after Ctrl-C.
    """
    if not todo:
        return
    device = found[0].job.device
    with _connected(address, device, listener) as ray, _announced(len(todo), device):
        from ray.util.queue import Queue

        events = Queue(actor_options={"num_cpus": 0})
        task = ray.remote(**_resources(device))(_run_shards)
        waiting = set(todo)
        running: dict[Any, list[int]] = {}
        while waiting or running:
            slots = _slots(ray, device)
            while len(running) < slots:
                next_ = group(found, waiting, set().union(*running.values()), slots)
                if not next_:
                    break
                waiting.difference_update(next_)
                running[task.remote(_joined(found, next_), run, events)] = next_
            ended, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            if count := events.qsize():
                for event in events.get_nowait_batch(count):
                    listener(event)
            for reference in ended:
                job = _joined(found, running.pop(reference))
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    failed(job, VariantError(f"its Ray worker was lost: {_first_line(error)}"))
        events.shutdown()


def group(
    found: Sequence[Shard], waiting: AbstractSet[int], running: AbstractSet[int], slots: int
) -> list[int]:
    """The shards of one variant that the next task runs, its model loaded once; [] where none can.

    Groups shrink with the work that waits, so that slots end together (guided self-scheduling,
    Polychronopoulos and Kuck 1987, IEEE Trans. Comput. C-36:1425). Where more than one slot could
    take them up, a shard that others wait for ends its group. Shares of texts run by themselves:
    they are long, and the more of them run at once the better.
    """
    most = math.ceil(len(waiting) / (2 * slots - 1))
    chosen: list[int] = []
    unfinished = set(waiting | running)
    for index in sorted(waiting):
        shard = found[index]
        if not unfinished.isdisjoint(shard.after):
            continue
        if chosen and (shard.part.share or shard.job.variant != found[chosen[0]].job.variant):
            continue
        chosen.append(index)
        # Parts of a task run one after the other.
        unfinished.remove(index)
        awaited = slots > 1 and any(index in found[other].after for other in waiting)
        if shard.part.share or awaited or len(chosen) >= most:
            break
    return chosen


def _joined(found: Sequence[Shard], indices: Sequence[int]) -> Job:
    parts = tuple(found[index].part for index in indices)
    return dataclasses.replace(found[indices[0]].job, parts=parts)


def slots(address: str, device: str, listener: Listener) -> int:
    """How many tasks the cluster at `address` runs at once."""
    with _connected(address, device, listener) as ray:
        return _slots(ray, device)


def run_each(
    calls: Sequence[tuple[Any, ...]],
    function: Callable[..., Any],
    address: str,
    listener: Listener,
) -> Iterator[tuple[int, Any]]:
    """Yield (index, result) of `function(*calls[index])` as they end, or an error."""
    device = resolve_device("auto")
    with _connected(address, device, listener) as ray:
        task = ray.remote(**_resources(device))(function)
        running = {task.remote(*call): index for index, call in enumerate(calls)}
        while running:
            ended, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for reference in ended:
                index = running.pop(reference)
                try:
                    yield index, ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield index, VariantError(f"its Ray worker was lost: {_first_line(error)}")


def _run_shards(job: Job, run: RunVariant, events: Any) -> None:
    sent: dict[str, float] = {}

    def send(event: Event) -> None:
        """Every event is a call across the cluster: the steps of a stage go one a second."""
        now = time.monotonic()
        last = event.done >= event.total
        if event.message or last or now - sent.get(event.stage, 0.0) >= SEND_SECONDS:
            sent[event.stage] = now
            events.put_nowait(event)

    run(job, send)


def _needs(device: str) -> dict[str, int]:
    """A whole GPU, or as many CPUs as this machine has: equal threads give equal results."""
    return {"CPU": threads()} if device == "cpu" else {"CPU": 1, "GPU": 1}


def _resources(device: str) -> dict[str, Any]:
    needs = _needs(device)
    return {
        "num_cpus": needs["CPU"],
        "num_gpus": needs.get("GPU", 0),
        # A worker is used again: what holds memory runs in a child of its own, and the forkserver
        # that imported torch stays.
        "max_calls": 0,
        "max_retries": RETRIES,
    }


@contextmanager
def _announced(tasks: int, device: str) -> Iterator[None]:
    """Tell a cluster that grows with its work how much there is: what waits here it cannot see."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[_needs(device)] * tasks)
    try:
        yield
    finally:
        request_resources(bundles=[])


@contextmanager
def _connected(address: str, device: str, listener: Listener) -> Iterator[Any]:
    """Ray, connected; whatever runs is ended on the way out."""
    try:
        import ray
    except ImportError:
        raise UsageError(f"--ray needs Ray: install it with {INSTALL}") from None
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    mine = not ray.is_initialized()
    try:
        if mine and address == LOCAL:
            ray.init(address="local", include_dashboard=False, **quiet)
        elif mine:
            _check_answers(address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--ray {address}: no cluster answers ({_first_line(error)}); give HOST:PORT of a"
            f" running one, auto on one of its nodes, or {LOCAL} to start one here"
        ) from error
    try:
        _check_room(ray, device)
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        total = ray.cluster_resources()
        size = f"{total.get('CPU', 0):.0f} CPUs, {total.get('GPU', 0):.0f} GPUs"
        listener(Event("ray", "", message=f"Ray: {nodes} nodes, {size}"))
        yield ray
    except KeyboardInterrupt:
        raise InterruptedWorkError("stopped; run the same command again to go on") from None
    finally:
        if mine:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "//" not in address:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def _slots(ray: Any, device: str) -> int:
    """How many tasks run at once; more would wait in line, and Ray start a worker for each."""
    needs = _needs(device)
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(min(node.get(name, 0) // needs[name] for name in needs)) for node in alive)


def _check_room(ray: Any, device: str) -> None:
    """Raise UsageError where no node could ever run a task, which Ray would wait for forever."""
    for name, wanted in _needs(device).items():
        most = max(node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"])
        if most < wanted:
            raise UsageError(
                f"no node of the cluster has {wanted} {name}s as this machine has (at most"
                f" {most:.0f}): give the command on a machine like the workers'"
            )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
