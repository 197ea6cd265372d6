"""What of a user's lm-eval task YAML would run code: refused unless --allow-code is given.

lm-eval's loader imports Python for every `!function` tag, from a file beside the YAML or from any
installed module, so `!function os.system` needs no file at all. A metric that lm-eval does not
know is downloaded as a script, and some data builders read pickles. The YAML is looked at without
being loaded; the tasks that lm-eval and evalkit ship are trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lm_eval.tasks
import yaml
from lm_eval.api.registry import METRIC_REGISTRY

from evalkit.errors import DataError
from evalkit.tasks.lm_eval_entries import demo_paths
from evalkit.yaml_file import compose_yaml, nodes_of

# Builders of the datasets library that unpickle what they read.
_PICKLING = ("pandas",)
_PLAIN = "tag:yaml.org,2002:"


def refuse_code(name: str, file: Path | None) -> None:
    """Raise DataError where the YAML `file` of task `name`, or one it includes, would run code."""
    if file is None or _trusted(file):
        return
    found = next(_code(file, set()), "")
    if found:
        raise DataError(
            f"task {name!r} would run code: {found} in {file}; read it, then allow it with "
            "--allow-code"
        )


def _trusted(file: Path) -> bool:
    roots = [Path(lm_eval.tasks.__file__).parent, *demo_paths()]
    return any(file.resolve().is_relative_to(root.resolve()) for root in roots)


def _code(file: Path, seen: set[Path]) -> Iterator[str]:
    seen.add(file.resolve())
    for node in nodes_of(compose_yaml(file)):
        if not node.tag.startswith(_PLAIN) or ":python/" in node.tag:
            value = node.value if isinstance(node, yaml.ScalarNode) else ""
            yield f"{node.tag} {value}".strip()
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            yield from _code_of_key(key.value, value)
            for included in _included(file, key.value, value):
                if included.resolve() not in seen and not _trusted(included):
                    yield from _code(included, seen)


def _code_of_key(key: object, value: yaml.Node) -> Iterator[str]:
    if key == "dataset_path" and (value.value in _PICKLING or str(value.value).endswith(".py")):
        yield f"dataset_path {value.value}"
    if key != "metric_list" or not isinstance(value, yaml.SequenceNode):
        return
    for item in value.value:
        entries = {k.value: v.value for k, v in item.value if isinstance(k.value, str)}
        metric = entries.get("metric")
        if isinstance(metric, str) and metric not in METRIC_REGISTRY:
            yield f"metric {metric}, which is none of lm-eval's,"
        if str(entries.get("hf_evaluate", "")).lower() in ("true", "yes", "on"):
            yield f"metric {metric} with hf_evaluate"


def _included(file: Path, key: object, value: yaml.Node) -> list[Path]:
    if key != "include":
        return []
    nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
    return [file.parent / str(node.value) for node in nodes]
