"""Is a variant sound, and does a comparison stay within limits?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from evalkit.analysis.gate import Judgement, judge, parse_limits
from evalkit.api.opening import load_comparison
from evalkit.declaration import documented, resolved
from evalkit.errors import UsageError
from evalkit.metrics import gate_limits
from evalkit.options import DoctorOptions
from evalkit.progress import Listener, listening
from evalkit.records import Comparison
from evalkit.records.findings import Diagnosis, MachineReport
from evalkit.yaml_file import read_yaml


@documented(DoctorOptions)
def doctor(
    variant: str | None = None,
    *,
    progress: Listener | None = None,
    **options: Unpack[DoctorOptions],
) -> Diagnosis | MachineReport:
    """Examine this machine, or make and load `variant` and examine it beside the full model.

    Either takes seconds. Raises EvalkitError where the variant cannot be made or loaded at all.
    """
    from evalkit.running.doctor.machine import examine_machine
    from evalkit.running.doctor.run import diagnose

    given = resolved(DoctorOptions, options)
    if variant is None:
        return examine_machine(given)
    with listening(progress) as listener:
        return diagnose(variant, given, listener)


def check(
    comparison: Comparison | str | Path | None = None,
    limits: Path | str | None = None,
    store: str | Path | None = None,
    **words: Any,
) -> list[Judgement]:
    """Judge a comparison (a record, an id or file, or the newest) by limits.

    `limits` is a YAML file of names and values; `words` are further ones: max_task_loss="1pp",
    max_perplexity_increase="2%", max_memory="8GB", … Raises UsageError for a limit that is none.
    """
    asked = {**(_read(Path(limits)) if limits is not None else {}), **words}
    parsed = parse_limits(asked, gate_limits())
    if not isinstance(comparison, Comparison):
        comparison = load_comparison(comparison, store)
    return judge(comparison, parsed)


def _read(file: Path) -> dict[str, Any]:
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise UsageError(f"{file} is not a mapping of limits: write max_task_loss: 1pp")
    return content
