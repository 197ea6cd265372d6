"""What `--until-decided` makes of the options and of the parts of a job. No torch import."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from evalkit.analysis.verdicts import parse_margin
from evalkit.errors import UsageError
from evalkit.options import CompareOptions
from evalkit.records import content_hash
from evalkit.running.job import Job, Part, Stopping
from evalkit.running.keys import stopped_key


def stopping_margin(options: CompareOptions) -> float | None:
    """The margin at which tasks stop; None where they are asked whole."""
    if not options["until_decided"]:
        return None
    if options["ray"]:
        raise UsageError(
            "--until-decided pairs with the baseline's answers, which a cluster makes at the same"
            " time: leave out --until-decided or --ray"
        )
    margin = parse_margin(options["margin"])
    if not margin.points > 0:
        raise UsageError(
            f"--until-decided with --margin {margin.text}: no number of items tells a loss from"
            " none; give a margin above 0 such as 1pp"
        )
    return margin.points


def stopping_part(job: Job, part: Part, baseline: Sequence[Part]) -> Part:
    """The part; a task that need not be asked whole under a key of its own.

    What is stored under it is done for this margin and these answers of the baseline only.
    """
    margin = job.settings.until_decided
    if margin is None or part.kind != "task":
        return part
    answered = tuple(one.run.id for one in baseline if one.kind == "task")
    return dataclasses.replace(
        part,
        run=dataclasses.replace(part.run, id=stopped_key(part.run.id)),
        baseline=content_hash([margin, answered]),
        stopping=Stopping(margin, answered),
    )
