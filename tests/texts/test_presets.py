from __future__ import annotations

import re
from pathlib import Path

import pytest

from evalkit import demo_data
from evalkit.errors import DataError, UsageError
from evalkit.texts import presets
from evalkit.texts.presets import load_preset, preset_names
from evalkit.texts.windows import CONVENTIONS

# Reading only these is a hundred times faster than lm-eval's index of all its tasks.
LM_EVAL_FOLDERS = (
    "arc",
    "super_glue",
    "gsm8k",
    "hellaswag",
    "lambada",
    "mmlu",
    "openbookqa",
    "piqa",
    "truthfulqa",
)


def test_the_four_presets_are_there_and_say_why() -> None:
    assert preset_names() == ["demo", "full", "quick", "standard"]
    for name in ("quick", "standard", "full"):
        preset = load_preset(name)
        assert preset.convention in CONVENTIONS
        assert preset.summary
        assert set(preset.reasons) == {task.name for task in preset.tasks}
        assert all(preset.reasons.values())
        assert all(text.startswith("hf:") for text in preset.texts)


def test_every_task_of_the_presets_is_one_of_lm_eval() -> None:
    import lm_eval

    known: set[str] = set()
    for folder in LM_EVAL_FOLDERS:
        for file in (Path(lm_eval.__file__).parent / "tasks" / folder).rglob("*.yaml"):
            known |= set(re.findall(r"^(?:task|group): (\w+)$", file.read_text(), re.MULTILINE))
    for name in ("quick", "standard", "full"):
        assert {task.name for task in load_preset(name).tasks} <= known


def test_presets_grow() -> None:
    quick, standard, full = (load_preset(name) for name in ("quick", "standard", "full"))
    assert {t.name for t in quick.tasks} < {t.name for t in standard.tasks}
    assert {t.name for t in standard.tasks} < {t.name for t in full.tasks}
    assert all(task.limit is None for task in full.tasks)


def test_demo_names_the_embedded_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "demo_directory", lambda: tmp_path)
    preset = load_preset("demo")
    assert preset.texts == (str(tmp_path / "text" / "town_test.txt"),)
    assert (preset.convention, preset.context) == ("document", 1024)
    names = ["demo_where", "demo_last_word", "demo_grammar", "demo_sums"]
    assert [task.name for task in preset.tasks] == names
    assert [task.shots for task in preset.tasks] == [0] * 4


def test_a_mistyped_preset_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown suite 'standart'.*did you mean 'standard'"):
        load_preset("standart")


def test_demo_data_is_found_in_a_checkout_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "evalkit"
    monkeypatch.setattr(demo_data, "__file__", str(package / "demo_data.py"))
    with pytest.raises(DataError, match="reinstall evalkit"):
        demo_data.demo_directory()
    (package / "_data" / "demo").mkdir(parents=True)
    assert demo_data.demo_directory() == package / "_data" / "demo"
    (tmp_path / "data" / "demo").mkdir(parents=True)
    assert demo_data.demo_directory() == tmp_path / "data" / "demo"
