"""`evalkit sensitivity`: plan, make the checkpoint, measure in a process, keep the map."""

from __future__ import annotations

import dataclasses
import shutil

from evalkit.errors import EvalkitError
from evalkit.options import SensitivityOptions
from evalkit.progress import Event, Listener, ignore
from evalkit.records.sensitivity import Sensitivity
from evalkit.running.build_job import on_this_machine
from evalkit.running.cluster import run_each, slots
from evalkit.running.process import run_child
from evalkit.running.quantize import make_checkpoint
from evalkit.running.sensitivity.plan import SensitivityWork, plan_sensitivity
from evalkit.store.store import Store


def run_sensitivity(word: str, options: SensitivityOptions, listener: Listener) -> Sensitivity:
    """The damage map of one variant: the stored one where it is whole, else measured.

    Raises EvalkitError in one line where the variant cannot be made, loaded or exchanged.
    """
    work = plan_sensitivity(word, options, listener)
    store = Store(work.baseline.store)
    if options["fresh"]:
        shutil.rmtree(store.raw(work.key), ignore_errors=True)
    elif (known := store.sensitivity(work.id)) is not None and known.is_final:
        return known
    for job in (work.baseline, work.variant):
        make_checkpoint(job, listener)
    if options["ray"] and options["method"] == "swaps":
        _spread(work, options["ray"], listener)
    found = _measured(work, listener)
    store.save_sensitivity(found)
    return found


def _measured(work: SensitivityWork, listener: Listener) -> Sensitivity:
    # Not above: a map that is in the store is shown without torch.
    from evalkit.running.sensitivity.worker import measure_sensitivity

    found: Sensitivity = run_child(measure_sensitivity, work, listener, gpu=work.baseline.visible)
    return found


def _spread(work: SensitivityWork, address: str, listener: Listener) -> None:
    """Let the workers of a Ray cluster measure shares of the pieces, each with models of its own.

    What a lost worker did not measure is measured here afterwards.
    """
    count = slots(address, work.baseline.device, listener)
    calls = [(dataclasses.replace(work, share=(number, count)),) for number in range(count)]
    for number, outcome in run_each(calls, _share, address, listener):
        if isinstance(outcome, EvalkitError):
            listener(Event("ray", "", message=f"share {number + 1} of {count}: {outcome}"))


def _share(work: SensitivityWork) -> EvalkitError | None:
    """Measure a share in a process of this worker; what went wrong, in a line."""
    from evalkit.running.sensitivity.worker import measure_share

    here = [on_this_machine(job) for job in (work.baseline, work.variant)]
    work = dataclasses.replace(work, baseline=here[0], variant=here[1])
    try:
        run_child(measure_share, work, ignore, gpu=work.baseline.visible)
    except EvalkitError as error:
        return error
    return None
