"""Readers on hostile bytes: one line or a value, never a traceback; bounded in time for CI."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import pytest
from fuzz.mutation import mutated
from fuzz.targets import Target, targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalkit.errors import EvalkitError

TARGETS = targets()
BOUNDED = settings(
    max_examples=100, deadline=5000, suppress_health_check=list(HealthCheck), derandomize=True
)


def read(target: Target, data: bytes) -> None:
    try:
        target.read(data)
    except EvalkitError as error:
        assert "\n" not in str(error)
        assert str(error).strip()


@pytest.fixture(autouse=True)
def warm(name: str) -> None:
    """What a target imports is no part of an input's time."""
    for seed in TARGETS[name].seeds:
        with suppress(EvalkitError):
            TARGETS[name].read(seed)


@pytest.mark.parametrize("name", TARGETS)
@BOUNDED
@given(data=st.binary(max_size=400))
def test_any_bytes(name: str, data: bytes) -> None:
    read(TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_of_valid_inputs(name: str) -> None:
    generator = random.Random(f"test {name}")
    for _ in range(200):
        data = mutated(TARGETS[name].seeds, generator)
        begun = time.perf_counter()
        read(TARGETS[name], data)
        assert time.perf_counter() - begun < 5, data[:200]


# Found by fuzzing, each a traceback, a crash of the process or minutes of time before.
CRASHES = {
    "a number of 300 digits": ("variant", b"int4@gptq,group_size=" + b"9" * 300),
    "a name too long for the disk": ("variant", b"x" * 2000),
    "a zero byte in a home": ("variant", b"~a\0b/c"),
    "a notebook too long for the disk": ("grid", b"notebook: " + b"x" * 2000),
    "a notebook with a zero byte": ("grid", b'notebook: "a\\0b"'),
    "lists in lists": ("grid", b"[" * 1200),
    "lists in lists for libyaml": ("task YAML", b"[" * 100_000),
    "mappings in mappings": ("limits", b"{a: " * 1200),
    "JSON nested too deeply": ("config.json", b'{"a":' * 1200),
    "half a surrogate pair": ("config.json", b'{"model_type": "llama", "a": "\\ud800"}'),
    "a model type too long for the disk": ("config.json", b'{"model_type": "%s"}' % (b"x" * 2000)),
    "a shard too long for the disk": ("index.json", b'{"weight_map": {"a": "%s"}}' % (b"x" * 2000)),
    "a shard with a zero byte": ("index.json", b'{"weight_map": {"a": "a\\u0000b"}}'),
    "bits that are no number": ("quantization_config", b'{"quant_method": "gptq", "bits": "four"}'),
    "no bits": ("quantization_config", b'{"quant_method": "gptq"}'),
    "a group size of null": (
        "quantization_config",
        b'{"quant_method": "gptq", "bits": 4, "group_size": null}',
    ),
    "a manifest of lists": (
        "manifest",
        b'{"schema": "evalkit.data/1", "task": "t", "source": "s", "subset": "", "revision": "r",'
        b' "splits": [[]]}',
    ),
    "a count of 400 digits": (
        "comparison file",
        TARGETS["comparison file"]
        .seeds[0]
        .replace(b'"parameters": ', b'"parameters": ' + b"9" * 400, 1),
    ),
    "a schema of many digits": ("run file", b'{"schema": "evalkit.run/%s"}' % (b"1" * 5000)),
    "a YAML that is not UTF-8": ("task YAML", b"task: \xff\xfe"),
}


@pytest.mark.parametrize(("name", "data"), CRASHES.values(), ids=CRASHES)
def test_what_fuzzing_found(name: str, data: bytes) -> None:
    with pytest.raises(EvalkitError) as caught:
        TARGETS[name].read(data)
    assert "\n" not in str(caught.value)
