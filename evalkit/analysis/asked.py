"""What a task asked of a variant; two variants are compared only where they were asked the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """What a task asked of one variant under one filter.

    `settings` are those that fix the prompts (version of the task, shots, chat, split) by name;
    `documents`, `prompts` and `targets` are hashes or texts of the items in their order;
    `requests` is the hash of everything the model was sent, and `lm_eval` the version that made
    the prompts, "" where it is not known.
    """

    settings: Mapping[str, str]
    documents: tuple[str, ...]
    prompts: tuple[str, ...]
    targets: tuple[str, ...]
    requests: str = ""
    lm_eval: str = ""

    def only(self, places: Iterable[int], requests: str) -> Asked:
        """What the items at `places` were asked; `requests` is the hash of those alone."""
        chosen = list(places)
        return dataclasses.replace(
            self,
            documents=tuple(self.documents[place] for place in chosen),
            prompts=tuple(self.prompts[place] for place in chosen),
            targets=tuple(self.targets[place] for place in chosen),
            requests=requests,
        )


def asked_difference(baseline: Asked, variant: Asked) -> str:
    """In words, the first thing in which two variants were asked differently; "" where in none.

    Both versions of lm-eval are named where they differ, as a task's prompts are its.
    """
    found = _difference(baseline, variant)
    versions = (variant.lm_eval or "unknown", baseline.lm_eval or "unknown")
    if not found or versions[0] == versions[1]:
        return found
    return f"{found} (lm-eval {versions[0]} against {versions[1]})"


def _difference(baseline: Asked, variant: Asked) -> str:
    for name, wanted in baseline.settings.items():
        if variant.settings.get(name) != wanted:
            return f"{name} differs ({variant.settings.get(name)} against {wanted})"
    sizes = len(variant.documents), len(baseline.documents)
    if sizes[0] != sizes[1]:
        return f"the number of items differs ({sizes[0]} against {sizes[1]})"
    for name in ("documents", "prompts", "targets"):
        theirs, own = getattr(baseline, name), getattr(variant, name)
        if theirs != own:
            pairs = enumerate(zip(theirs, own, strict=True))
            return f"{name} differ from item {next(i for i, (a, b) in pairs if a != b)} on"
    if baseline.requests != variant.requests:
        return "continuations or generation settings of the prompts differ"
    return ""
