from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalkit import plugins
from evalkit.errors import EvalkitError, UsageError


def test_every_file_of_the_folder_is_found() -> None:
    assert {"transformers", "bitsandbytes", "gptq"} <= set(plugins.names("backends"))
    assert {"perplexity", "divergence", "speed", "memory", "size"} <= set(plugins.names("metrics"))


@pytest.mark.parametrize("group", plugins.GROUPS)
def test_every_plugin_declares_itself(group: str) -> None:
    for name in plugins.names(group):
        module = plugins.load(group, name)
        assert hasattr(module, {"backends": "SPEC", "metrics": "SPECS"}.get(group, name))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules and entry points that another package has installed."""
    information = tmp_path / "other-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    caches = (plugins._sources, plugins._claims, plugins._entry_points)
    for one in caches:
        one.cache_clear()
    yield tmp_path
    for one in caches:
        one.cache_clear()


def test_a_package_that_cannot_be_imported_is_named(installed: Path) -> None:
    entries = "[evalkit.statistics]\nlost = no_such_module\nshy = shy_module\n"
    (installed / "other-1.0.dist-info" / "entry_points.txt").write_text(entries)
    (installed / "shy_module.py").write_text("")
    assert {"lost", "shy", "kl"} <= set(plugins.names("statistics"))
    with pytest.raises(EvalkitError, match=r"^statistic 'lost' cannot be imported from no_such_"):
        plugins.function("statistics", "lost")
    with pytest.raises(EvalkitError, match=r"shy_module has no function shy; give it the name of"):
        plugins.function("statistics", "shy")


def test_a_mistyped_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown backend 'gtpq'.*did you mean 'gptq'"):
        plugins.load("backends", "gtpq")


def test_the_command_line_looks_for_plugins_only_where_it_needs_them() -> None:
    code = (
        "import sys\nfrom evalkit.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'numpy', 'evalkit.metrics', 'evalkit.view.charts'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_package_with_a_name_of_evalkits_own_is_named(installed: Path) -> None:
    (installed / "theirs.py").write_text("")
    entries = "[evalkit.backends]\ngptq = theirs\n"
    (installed / "other-1.0.dist-info" / "entry_points.txt").write_text(entries)
    with pytest.raises(EvalkitError, match="backend 'gptq' is evalkit's own and that of theirs"):
        plugins.load("backends", "gptq")
    assert plugins.load("backends", "awq").__name__ == "evalkit.backends.awq"
