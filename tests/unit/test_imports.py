"""What is imported when: asking what exists, checking a recipe or reading a report must not wait
for torch.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    *("torch", "torch._dynamo", "triton"),
    *("torchvision", "torchmetrics", "sklearn", "matplotlib"),
)
PROBE = f"""
import sys
{{statement}}
print(*[name for name in {HEAVY} if name in sys.modules])
"""


def heavy_after(statement: str) -> list[str]:
    """Names of the heavy packages that a fresh interpreter holds after a statement."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1].split() if done.stdout.strip() else []


@pytest.mark.parametrize(
    "statement",
    [
        (
            "import kdcli, kdcli.errors, kdcli.files, kdcli.results.weights_header, "
            "kdcli.results.measures"
        ),
        (
            "import kdcli.catalog as c; [c.options_class(e) for k in c.KINDS for e in "
            "c.entries(k).values()]"
        ),
        "import kdcli.recipe.resolve, kdcli.recipe.writing, kdcli.recipe.sweep.cells",
        "import kdcli.cli.app",
    ],
)
def test_light_parts_stay_light(statement):
    assert heavy_after(statement) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["methods"],
        ["models"],
        ["datasets"],
        ["recipes", "ls"],
        ["check", "quickstart"],
    ],
)
def test_commands_that_only_read_do_not_import_torch(arguments):
    call = (
        f"from kdcli.__main__ import main\nsys.argv = {['kd', *arguments]!r}\ntry:\n    "
        "main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    assert heavy_after(call) == []


def test_a_run_takes_torch_and_nothing_else_that_takes_long(tmp_path):
    """torchvision, and torch's own optimisers when they are made, bring torch's compiler with them,
    over a second: a run on resident data needs neither.
    """
    short = {"train.epochs": 1, "data.train_limit": 100, "model.hidden": [4], "report.html": False}
    call = (
        f"from kdcli.jobs import train_teacher; train_teacher(model='mlp', data='digits', "
        f"out={str(tmp_path)!r}, overrides={short})"
    )
    assert heavy_after(call) == ["torch"]
