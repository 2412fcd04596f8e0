"""Whatever it is fed, `kd` answers with a sentence and an exit code from the table: no traceback, no
"this should not happen".

A thousand cases here, the same ones each time; `make fuzz` makes more, led by what they reach.
"""

from __future__ import annotations

import shutil

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.cases import arguments, checkpoints, here, hold, recipes, runs

CASES = {"recipe": 540, "arguments": 60, "checkpoint": 250, "run": 150}


def cases(number: int) -> settings:
    return settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@cases(CASES["recipe"])
@given(recipes())
def test_a_recipe(content):
    with here() as folder:
        (folder / "recipe.toml").write_bytes(content)
        hold(["check", "recipe.toml", "--json"])


@cases(CASES["arguments"])
@given(arguments())
def test_arguments(argv):
    with here():
        hold(argv)


@cases(CASES["checkpoint"])
@given(checkpoints())
def test_a_checkpoint(content):
    with here() as folder:
        (folder / "model.safetensors").write_bytes(content)
        hold(["evaluate", "model.safetensors", "--json", "--device", "cpu"])


@cases(CASES["run"])
@given(runs())
def test_a_run(texts):
    with here() as folder:
        shutil.rmtree(folder / "run", ignore_errors=True)
        (folder / "run").mkdir()
        for name, text in texts.items():
            (folder / "run" / name).write_text(text, encoding="utf-8", errors="replace")
        hold(["compare", "run", "run"])
        hold(["report", "run", "--no-html", "--json"])


def test_there_are_a_thousand_cases():
    assert sum(CASES.values()) >= 1000


@pytest.mark.parametrize("test", [test_a_recipe, test_arguments, test_a_checkpoint, test_a_run])
def test_a_fuzzer_can_drive_each(test):
    """As tools/fuzz.py does: from bytes."""
    assert callable(test.hypothesis.fuzz_one_input)
