import dataclasses
import subprocess
import sys

import pytest

from evalkit.records import (
    Environment,
    Measurement,
    Model,
    Run,
    Suite,
    TaskSlice,
    TextSlice,
    Variant,
    content_hash,
    from_json,
    to_json,
)

SUITE = Suite(
    name="two texts",
    texts=(TextSlice("a", "11", 3), TextSlice("b", "22", 1)),
    tasks=(TaskSlice("arc_easy", 5, 100), TaskSlice("gsm8k")),
)
RUN = Run(
    id="0123",
    model=Model("demo", "abcd", 5, "Llama"),
    variant=Variant("int4", "gptq", (("desc_act", True), ("group_size", 64)), asked="int4"),
    suite=SUITE,
    status="ok",
    environment=Environment("m", "cpu", 2, "3.11", "linux", {"torch": "2"}),
    measurements=(
        Measurement("speed", 1, "tokens/s", "higher", (1.0, 2.0), machine="m"),
        Measurement("speed", 1, "tokens/s", "higher", (3.0,), machine="other"),
        Measurement("kl", 1, "nats", "lower", table="t.parquet", baseline="b1"),
    ),
)


def test_a_run_survives_json() -> None:
    assert from_json(Run, to_json(RUN)) == RUN


def test_unknown_keys_are_ignored_and_missing_ones_refused() -> None:
    content = to_json(RUN)
    content["novelty"] = 1
    assert from_json(Run, content) == RUN
    del content["model"]
    with pytest.raises(TypeError):
        from_json(Run, content)


@pytest.mark.parametrize(
    ("field", "value"), [("status", "fine"), ("message", 3), ("suite", None), ("model", [])]
)
def test_content_of_another_shape_is_refused(field: str, value: object) -> None:
    content = to_json(RUN)
    content[field] = value
    with pytest.raises((TypeError, ValueError, AttributeError)):
        from_json(Run, content)


def test_a_measurement_is_found_by_machine_and_baseline() -> None:
    first = RUN.measurement("speed", machine="m")
    assert first is not None and first.values == (1.0, 2.0)
    assert RUN.measurement("kl", baseline="b2") is None
    assert RUN.measurement("kl", baseline="b1") is not None
    assert RUN.measurement("energy") is None


def test_the_suite_is_its_content_not_its_names() -> None:
    renamed = dataclasses.replace(
        SUITE, name="other", texts=(TextSlice("x", "11", 3), TextSlice("y", "22", 1))
    )
    assert renamed.id == SUITE.id
    assert dataclasses.replace(SUITE, seed=1).id != SUITE.id
    assert dataclasses.replace(SUITE, texts=SUITE.texts[:1]).id != SUITE.id


def test_parts_of_a_suite_do_not_depend_on_each_other() -> None:
    parts = SUITE.parts()
    assert [len(part.tasks) for part in parts] == [0, 1, 1]
    without = dataclasses.replace(SUITE, tasks=SUITE.tasks[:1]).parts()
    assert [part.id for part in without] == [part.id for part in parts[:2]]
    other_window = dataclasses.replace(SUITE, context=1024).parts()
    assert other_window[0].id != parts[0].id
    assert other_window[1].id == parts[1].id


def test_canonical_text_and_label() -> None:
    assert RUN.variant.text == "int4@gptq,desc_act=true,group_size=64"
    assert RUN.variant.label == "int4"
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})


def test_importing_evalkit_and_reading_results_needs_no_torch() -> None:
    code = (
        "import sys, evalkit, evalkit.api, evalkit.view;"
        "import evalkit.analysis.compare, evalkit.store.store, evalkit.running.compare.plan;"
        "import evalkit.running.compare.run; evalkit.compare; evalkit.load_run;"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
