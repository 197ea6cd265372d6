"""`evalkit sensitivity`: plan, make the checkpoint, measure in a process, keep the map."""

from __future__ import annotations

import shutil

from evalkit.options import SensitivityOptions
from evalkit.progress import Listener
from evalkit.records.sensitivity import Sensitivity
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
    found = _measured(work, listener)
    store.save_sensitivity(found)
    return found


def _measured(work: SensitivityWork, listener: Listener) -> Sensitivity:
    # Not above: a map that is in the store is shown without torch.
    from evalkit.running.sensitivity.worker import measure_sensitivity

    found: Sensitivity = run_child(measure_sensitivity, work, listener, gpu=work.baseline.visible)
    return found
