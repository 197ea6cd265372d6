import pytest

from evalkit import plugins
from evalkit.errors import UsageError


def test_every_file_of_the_folder_is_found() -> None:
    assert {"transformers", "bitsandbytes", "gptq"} <= set(plugins.names("backends"))
    assert {"perplexity", "divergence", "speed", "memory", "size"} <= set(plugins.names("metrics"))


@pytest.mark.parametrize("group", plugins.GROUPS)
def test_every_plugin_declares_itself(group: str) -> None:
    for name in plugins.names(group):
        module = plugins.load(group, name)
        assert hasattr(module, "SPEC" if group == "backends" else "SPECS")


def test_a_mistyped_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown backend 'gtpq'.*did you mean 'gptq'"):
        plugins.load("backends", "gtpq")
