"""A search from words to verdict: what is refused, what is chosen, what is compared with what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny

import evalkit
from evalkit.analysis import allocation
from evalkit.backends import parse_variant, rtn
from evalkit.declaration import resolved
from evalkit.errors import EvalkitError
from evalkit.models.resolve import resolve_model
from evalkit.models.shapes import decoder_shapes
from evalkit.options import SearchOptions
from evalkit.progress import ignore
from evalkit.records import UNQUANTIZED
from evalkit.records.decomposition import Divergence
from evalkit.records.sensitivity import Piece, Sensitivity
from evalkit.running.compare.run import _compare
from evalkit.running.search import damage, run
from evalkit.running.search.candidates import candidates, groups_of, module_bytes
from evalkit.running.search.damage import scaled
from evalkit.running.search.plan import plan_search
from evalkit.store.store import Store

RTN = ("fp16", "int4@rtn,group_size=32", "int8@rtn,group_size=32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and texts: one to search on, one to judge on, one of both."""
    folder = tmp_path_factory.mktemp("search")
    tiny.make_llama(folder / "model", hidden=64, intermediate=96)
    for name, seed in (("damage", 100), ("judged", 300)):
        (folder / f"{name}.txt").write_text(tiny.documents(seed, 6), encoding="utf-8")
    both = f"{tiny.documents(100, 1)}<|endoftext|>\n{tiny.documents(700, 2)}"
    (folder / "both.txt").write_text(both, encoding="utf-8")
    return folder


def options(place: Path, **given: Any) -> SearchOptions:
    words = {
        "model": str(place / "model"), "out": str(place / "store"), "device": "cpu",
        "text": [str(place / "judged.txt")], "sensitivity_text": [str(place / "damage.txt")],
        "bits": 6.0,
    }  # fmt: skip
    return resolved(SearchOptions, words | given)


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        (RTN, {"bits": None}, "no budget: give one of --bits 4.5, --bytes 90MB, --damage 0.05"),
        (RTN, {"bytes": "1MB"}, "--bits and --bytes: give one of"),
        (RTN, {"bits": 3.0}, r"formats take .* to 16.00 bits a weight\); give more"),
        (RTN, {"bits": None, "bytes": "40kB"}, "never quantized takes 82,560, and the rest"),
        (RTN, {"sensitivity_text": None}, "give --sensitivity-text FILE, other than"),
        (RTN, {"swap": ["int2@rtn"]}, "--swap 'int2@rtn' is none of the candidates"),
        (("fp16",), {}, "no quantized variant to mix"),
        (("fp16", "bf16", "int4@rtn"), {}, "fp16 and bf16: name one baseline"),
        (("int8",), {}, "int8@bitsandbytes is no format of a module beside others: name formats"),
        ((*RTN, "int8@torchao"), {}, "int4@rtn,.* and int8@torchao are held in different cont"),
        ((RTN[1], f"{RTN[2]},sym=false"), {}, "differ in more than group_size: give all of them"),
    ],
)
def test_what_cannot_be_searched_is_one_line(
    place: Path, words: tuple[str, ...], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(EvalkitError, match=message) as raised:
        plan_search(words, options(place, **given), ignore)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": "damage.txt"}, "sensitivity and evaluation text overlap .*are the same text"),
        ({"text": "both.txt"}, "documents are the same"),
        ({"sensitivity_text": "both.txt", "text": "damage.txt"}, "give another --text or --sens"),
    ],
)
def test_text_that_was_searched_on_judges_nothing(
    place: Path, given: dict[str, str], message: str
) -> None:
    files = {name: [str(place / file)] for name, file in given.items()}
    with pytest.raises(EvalkitError, match=message):
        plan_search(RTN, options(place, **files), ignore)


def test_one_seed_of_the_models_own_text_serves_one_purpose(place: Path) -> None:
    words = ("int4@gptq,group_size=32,calibration=self", "int8@gptq,group_size=32,calibration=self")
    own = options(place, sensitivity_text=["self"])
    with pytest.raises(EvalkitError, match="writes both with seed 0; draw the other one with cal"):
        plan_search(words, own, ignore)
    others = [f"{word},calibration_seed=1" for word in words]
    assert plan_search(others, own, ignore).uses.names("sensitivity") == ("self",)


def test_budgets_are_read_in_words_and_numbers() -> None:
    read = resolved(SearchOptions, {"bits": "3.6,4.6, 6", "bytes": "90MB,1.2gb,7"})
    assert read["bits"] == (3.6, 4.6, 6.0) and read["bytes"] == (90e6, 1.2e9, 7.0)
    assert resolved(SearchOptions, {"bits": 4.5})["bits"] == (4.5,)
    for given in ({"bits": "four"}, {"bits": -1.0}, {"bytes": "90XB"}, {"bytes": "inf"}):
        with pytest.raises(EvalkitError, match=r"write (bits|a size) such as"):
            resolved(SearchOptions, given)


def test_groups_weigh_what_their_formats_take(place: Path) -> None:
    checkpoint = resolve_model(str(place / "model"))
    shapes = decoder_shapes(checkpoint)
    found = candidates([*RTN, "int4@rtn,group_size=64"], checkpoint)
    groups = groups_of(found, shapes, {name: {} for name in found.variants})
    by_name = {group.name: group for group in groups}
    joined = by_name["model.layers.1.self_attn.qkv_proj"]
    assert len(joined.modules) == 3 and joined.layer == 1
    size = joined.in_format("int4,group_size=64").bytes
    assert size == sum(module_bytes(found, "int4,group_size=64", shapes[m]) for m in joined.modules)
    # 96 inputs are no multiple of 64: there the format is not to be had.
    down = by_name["model.layers.0.mlp.down_proj"]
    assert down.in_format("int4,group_size=64").format == UNQUANTIZED
    assert {one.format for one in down.candidates} == {
        "int4,group_size=32", "int8,group_size=32", UNQUANTIZED
    }  # fmt: skip


def test_a_format_that_was_not_swapped_has_the_damage_of_its_error() -> None:
    own, other = {"a": 4.0, "b": 1.0, "c": 0.0}, {"a": 1.0, "b": 2.0, "c": 5.0}
    assert scaled({"a": 0.8, "b": 0.1, "c": 0.3}, own, other) == {"a": 0.2, "b": 0.2, "c": 0.0}


def test_what_is_swapped_by_default_is_what_fits_the_budget(place: Path) -> None:
    assert plan_search(RTN, options(place), ignore).swapped == ("int4,group_size=32",)
    assert plan_search(RTN, options(place, bits=9.5), ignore).swapped == ("int8,group_size=32",)
    asked = options(place, swap=["int8@rtn,group_size=32", "int4,group_size=32"])
    both = ("int8,group_size=32", "int4,group_size=32")
    assert plan_search(RTN, asked, ignore).swapped == both


def map_of(variant: str, nats: Mapping[str, float]) -> Sensitivity:
    pieces = tuple(Piece(m, "m", 0, kl, kl, kl, None, 1, 1, (m,)) for m, kl in nats.items())
    whole = Divergence(sum(nats.values()) / 2, 0.0, 1.0)
    return Sensitivity(
        "m", "fp16", variant, "module", "swap", "swaps", 100, whole, 2.0, 0.0, pieces, id="x"
    )


@pytest.fixture
def searched(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Search without measuring: damage is given, and nothing is compared."""
    seen: dict[str, Any] = {}
    shapes = decoder_shapes(resolve_model(str(place / "model")))

    def swap(found: Any, name: str, *rest: Any) -> Sensitivity:
        return map_of(name, {m: 0.01 + 0.1 * ("layers.1" in m) for m in shapes})

    def errors(*_: Any) -> dict[str, dict[str, float]]:
        sizes = {"int4,group_size=32": 16.0, "int8,group_size=32": 0.16}
        return {name: dict.fromkeys(shapes, error) for name, error in sizes.items()}

    def run_plan(plan: Any, listener: Any, *, fresh: bool) -> Any:
        seen["variants"] = [job.variant.text for job in plan.jobs]
        seen["wanted"] = plan.wanted
        return _compare(Store(plan.store), plan)

    monkeypatch.setattr(damage, "_swap", swap)
    monkeypatch.setattr(damage, "_errors", errors)
    monkeypatch.setattr(run, "run_plan", run_plan)
    monkeypatch.setattr(run, "_checkpoint", lambda *_: "there")

    def search(**given: Any) -> Any:
        return run.run_search(RTN, options(place, **given), ignore), seen

    return search


def test_the_best_mix_and_its_rivals_take_the_same_bytes(searched: Any, place: Path) -> None:
    found, seen = searched(bits="6,7", frontier=True)
    assert seen["variants"][0] == "fp16@transformers" and len(found.mixes) == 2
    assert seen["wanted"] == {"text", "memory"}
    mix = found.mixes[0]
    formats = {one.module: one.format for one in mix.plan}
    # What does ten times the damage gets the larger format.
    assert formats["model.layers.1.self_attn.o_proj"] == "int8,group_size=32"
    assert formats["model.layers.0.self_attn.o_proj"] == "int4,group_size=32"
    assert 5.5 < mix.bits <= 6
    checkpoint = resolve_model(str(place / "model"))
    assert sum(one.bytes for one in mix.plan) <= allocation.bytes_of_bits(
        groups_of(candidates(RTN, checkpoint), decoder_shapes(checkpoint),
                  {"int4,group_size=32": {}, "int8,group_size=32": {}}), 6)  # fmt: skip
    # The sum of the map is twice the whole, which predictions are divided by.
    assert found.additivity == 2.0
    assert mix.predicted_kl < 7 * 0.11
    assert parse_variant(mix.variant).text == mix.variant in seen["variants"]
    assert Path(mix.plan_file).read_text().startswith("schema: evalkit.mix/1\n")
    rtn.check(checkpoint, parse_variant(mix.variant))
    kept = json.loads(next((place / "store" / "searches").glob("*/search.json")).read_text())
    assert kept["schema"] == "evalkit.search/1"
    assert [one.format for one in found.frontier if one.format] == list(found.formats)
    assert len([one for one in found.frontier if not one.format]) > 3
    assert found.evaluation_texts == ("judged",) and found.sensitivity_texts == ("damage",)


def test_the_least_bytes_under_a_damage(searched: Any) -> None:
    strict, _ = searched(bits=None, damage=0.05)
    loose, _ = searched(bits=None, damage=0.3)
    assert strict.mixes[0].bytes > loose.mixes[0].bytes
    assert 2 * strict.mixes[0].predicted_kl <= 0.05
    with pytest.raises(EvalkitError, match=r"is too little|are too few"):
        searched(bits=1.0)


@pytest.mark.slow
def test_a_whole_search(place: Path) -> None:
    """Torchao's mixes, from the map to checkpoints that weigh what was predicted."""
    found = evalkit.search(
        "fp16", "int8@torchao", model=place / "model", out=place / "whole", device="cpu",
        text=str(place / "judged.txt"), sensitivity_text=str(place / "damage.txt"), bits=11.0,
        progress=ignore,
    )  # fmt: skip
    mix = found.mixes[0]
    assert mix.message == "" and mix.bytes <= mix.budget_bytes
    rest = mix.bytes - sum(one.bytes for one in mix.plan)
    assert rest == pytest.approx(2 * (2 * 64 * 320 + 5 * 64), rel=0.005)
    assert {one.kind for one in mix.held_out} == {"head and tail", "random", "smaller"}
    assert mix.kl is not None and all(mix.kl < one.kl for one in mix.held_out)
    assert mix.predicted_kl == pytest.approx(mix.kl, rel=0.6)
    assert (Path(mix.checkpoint) / "config.json").is_file()
