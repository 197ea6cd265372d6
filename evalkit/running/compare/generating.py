"""Which tasks generate text: settings of decoding are part of their keys, and of no others.

Only lm-eval's index knows, which takes seconds to import; so it is asked once, and the answer is
kept in the store. An unknown name is found here, before any process is started.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from evalkit.progress import Event, Listener
from evalkit.records import TaskSlice, content_hash
from evalkit.running.job import Subject
from evalkit.running.process import run_child
from evalkit.store.files import read_json, write_json


def generating_tasks(
    subject: Subject, tasks: Sequence[TaskSlice], send: Listener
) -> dict[str, bool]:
    """Of each task by name, whether any text is generated for it.

    Raises DataError for a name that is no task, group or tag, and for a file that cannot be read.
    """
    files = {task.name: _file(subject, task) for task in tasks}
    known = {name: read_json(file)["generates"] for name, file in files.items() if file.exists()}
    left = [task for task in tasks if task.name not in known]
    if left:
        send(Event("evalkit", "looking up tasks"))
        # Code that a task names may touch the card, which this process must not.
        ask = subject, left
        found = run_child(_ask, ask, send) if subject.settings.allow_code else _ask(ask, send)
        for name, generates in found.items():
            write_json(files[name], {"generates": generates})
        known |= found
    return known


def _file(subject: Subject, task: TaskSlice) -> Path:
    key = content_hash([task.name, task.data, metadata.version("lm_eval")])
    return subject.store / "tasks" / f"{key}.json"


def _ask(asked: tuple[Subject, Sequence[TaskSlice]], send: Listener) -> dict[str, bool]:
    from evalkit.tasks import kinds

    subject, tasks = asked
    include = subject.settings.include_path
    return kinds.generating_tasks(
        tasks,
        include_path=() if include is None else (include,),
        allow_code=subject.settings.allow_code,
    )
