"""Texts from datasets of the Hugging Face hub: `hf:NAME[:CONFIG][:SPLIT][:FIELD]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from evalkit.errors import DataError
from evalkit.network import hub_answers

HUB_PREFIX = "hf:"


@dataclass(frozen=True)
class HubSource:
    """The parts of a hub source; an empty `config` or `field` means the dataset's own choice."""

    name: str
    config: str = ""
    split: str = "test"
    field: str = ""


def parse_hub(source: str) -> HubSource:
    """Split `hf:NAME[:CONFIG][:SPLIT][:FIELD]`; a part may be left empty (`hf:NAME::train`).

    The split is "test" unless named. Raises DataError for another number of parts.
    """
    name, *rest = source.removeprefix(HUB_PREFIX).split(":")
    if not name or len(rest) > 3:
        raise DataError(
            f"{source!r} is not a hub dataset: write hf:NAME[:CONFIG][:SPLIT][:FIELD], "
            "for example hf:Salesforce/wikitext:wikitext-2-raw-v1:test"
        )
    config, split, field = (*rest, "", "", "")[:3]
    return HubSource(name, config, split or "test", field)


def hub_name(source: str) -> str:
    """The name of the slice: the last part of the dataset's name, with config and split."""
    parts = parse_hub(source)
    return "-".join(w for w in (parts.name.split("/")[-1], parts.config, parts.split) if w)


def hub_documents(
    source: str, text_fields: Sequence[str], *, limit: int | None, offline: bool
) -> tuple[list[str], str]:
    """The documents of a hub dataset (one a row, empty ones kept) and the field they came from.

    Raises DataError when the dataset, its configuration, split or text field cannot be had.
    """
    parts = parse_hub(source)
    rows = _load(source, parts, offline)
    columns = list(rows.column_names)
    wanted = (parts.field,) if parts.field else tuple(text_fields)
    field = next((name for name in wanted if name in columns), None)
    if field is None:
        raise DataError(
            f"{source} has no field {' or '.join(map(repr, wanted))}: fields at hand are "
            f"{', '.join(sorted(columns))}; name one as the last part of the source"
        )
    documents = list(rows[:limit][field])
    if not all(isinstance(document, str) for document in documents):
        raise DataError(f"{source}: field {field!r} is not text; name another as the last part")
    return documents, field


def _load(source: str, parts: HubSource, offline: bool) -> Any:
    with _offline_hub(offline or not hub_answers()):
        import datasets

        try:
            return datasets.load_dataset(parts.name, parts.config or None, split=parts.split)
        except ConnectionError as error:
            way = "--offline is set" if offline else "the hub does not answer"
            raise DataError(
                f"{source} is not in the local cache and {way}: "
                "connect once to fetch it, or give a file with --text"
            ) from error
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            # BuilderConfig, split and dataset-not-found errors already name what is allowed.
            raise DataError(f"{source} cannot be loaded: {error}") from error


@contextmanager
def _offline_hub(offline: bool) -> Iterator[None]:
    """Forbid network access of `datasets` inside the block.

    Both libraries read HF_HUB_OFFLINE once, at import, so their constants are set instead.
    """
    if not offline:
        yield
        return
    import datasets
    import huggingface_hub.constants

    modules = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
