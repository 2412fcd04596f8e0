"""stdout is the answer, stderr the conversation: for every command, and where stdout is full."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kdcli.cli.app import names, run
from kdcli.cli.console import Environment
from kdcli.results.search import Candidate, FoundTeacher, Score, SearchResult, Trial
from kdcli.results.sweep import CellResult, SweepResult
from tests.cli.conftest import Answer, result

SMALL = ("--epochs", "1", "-s", "data.train_limit=100", "-s", "report.html=false", "-qq")
SWEEP = 'base = "base.toml"\n[axes]\nseed = [0, 1]\n[table]\nover = ["seed"]\n'

# command, and a part of its answer
ANSWERS = {
    "train-teacher": (("train-teacher",), "✓ test accuracy 97.2 %"),
    "distill": (("distill",), "  student    97.2 %"),
    "resume": (("resume", "runs/kd"), "  student    97.2 %"),
    "sweep": (("sweep", "sweep.toml"), "✓ 1 cell: 1 done"),
    "cache": (
        ("cache", "-t", "runs/t", "-s", "student.name=mlp", "--size"),
        "1437 images × 1 view",
    ),
    "plan": (("plan", "base.toml"), "in all"),
    "import": (("import", "w.pth", "-d", "digits"), "cnn-small, 20.5"),
    "evaluate": (("evaluate", "runs/t", "runs/kd"), "McNemar p"),
    "analyze-gap": (
        ("analyze-gap", "--student", "runs/kd", "--bootstrap", "10"),
        "G_S = S(student)",
    ),
    "predict": (("predict", "runs/kd", "picture.png", "--top", "1"), "picture.png"),
    "export": (("export", "runs/kd", "--format", "torchscript", "-o", "student"), "✓ student"),
    "compare": (("compare", "runs/t", "runs/kd"), "method.name"),
    "table": (("table", "sweep.toml"), "kd table sweep.toml"),
    "search": (("search", "-t", "runs/t", "--student", "mlp"), "cnn-small"),
    "find-teacher": (("find-teacher", "quickstart"), "90.0 % of 10 held-out"),
    "methods": (("methods",), "skd"),
    "models": (("models",), "cnn-small"),
    "datasets": (("datasets",), "digits"),
    "recipes": (("recipes",), "quickstart"),
    "check": (("check", "quickstart"), "temperature = "),
    "schema": (("schema",), '"$defs"'),
    "report": (("report", "runs/kd", "--no-html"), "✓ runs/kd/report.md"),
    "doctor": (("doctor",), "torch"),
}


def call(*argv: str, stdout: io.StringIO | None = None) -> Answer:
    out, err = stdout or io.StringIO(), io.StringIO()
    return Answer(run(argv, Environment(out, err)), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a teacher, a student and a sweep."""
    folder = tmp_path_factory.mktemp("streams")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call("train-teacher", "--model", "cnn-small", "--name", "t", *SMALL).code == 0
        given = ("-t", "runs/t", "--student", "cnn-small", "--name", "kd", "-m", "kd")
        assert call("distill", *given, *SMALL).code == 0
        Image.new("L", (8, 8)).save("picture.png")
        Path("base.toml").write_text('[model]\nname = "mlp"\n[train]\nepochs = 1\n')
        Path("sweep.toml").write_text(SWEEP)
        torch.save(load_file("runs/t/model.safetensors"), "w.pth")
    return folder


@pytest.fixture
def work(folder, pretend, monkeypatch):
    """That folder, with jobs that train only pretending to."""
    monkeypatch.chdir(folder)
    Path("student").unlink(missing_ok=True)
    for job in ("train_teacher", "distill", "resume"):
        pretend(job, result("train-teacher" if job == "train_teacher" else "distill"))
    cell = CellResult("1", {"seed": "0"}, "done", "runs/x")
    pretend("run_sweep", SweepResult("sweep.toml", 1, (cell,)))
    score = Score(1, 0.9, 10, "runs/kd", 1.0, "runs/t/model.safetensors", 0.95, 0.1)
    trial = Trial(
        1,
        {"student": "cnn-small", "method": "kd", "temperature": 4.0},
        "raced to the end",
        (score,),
    )
    small = Candidate("cnn-small", 20490, None)
    pretend(
        "search",
        SearchResult(
            *("search", "digits", "runs/t", (small,), (), (1,), (trial,), (1,), 1, True),
            *("runs/kd", 0.9, 10, (), "kd distill again.toml", 1.0, "search.md"),
        ),
    )
    pretend(
        "find_teacher",
        FoundTeacher(
            *("found", "digits", "cnn-large", "cnn-small", 1, (1,), (trial,), 1, 1),
            *(
                "runs/t/model.safetensors",
                4.0,
                (1, 1),
                (1, 1),
                "kd distill again.toml",
                1.0,
                "f.md",
            ),
        ),
    )


class Full(io.StringIO):
    """A disk without room."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_every_command_is_here():
    assert set(ANSWERS) == set(names())


@pytest.mark.parametrize(("argv", "part"), ANSWERS.values(), ids=ANSWERS)
def test_stdout_has_the_answer_and_stderr_none_of_it(work, argv, part):
    answer = call(*argv)
    assert answer.code == 0, answer.err
    shown = answer.out.replace("\N{NO-BREAK SPACE}", " ")
    assert part in shown
    said = {line for line in answer.err.splitlines() if line.strip()}
    assert not said & set(answer.out.splitlines())


@pytest.mark.parametrize(
    "argv", [*(argv for argv, _ in ANSWERS.values()), ("recipes", "--json"), ("distill", "--json")]
)
def test_a_full_stdout_changes_no_exit_code_and_is_told(work, argv):
    answer = call(*argv, stdout=Full())
    assert answer.code == 0
    assert answer.err.count("could not be written to stdout: No space left on device") == 1
    assert "should not happen" not in answer.err
