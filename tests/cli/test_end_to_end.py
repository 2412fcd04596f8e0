"""The commands on real, tiny runs: teacher, student, measuring, comparing, sweeping."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from kdcli.cli.app import run
from kdcli.cli.commands.schema import schema_of
from kdcli.cli.console import Environment
from tests.cli.conftest import Answer
from tests.cli.schema_check import problems

SMALL = ("--epochs", "1", "-s", "data.train_limit=200", "-s", "report.html=false", "-q")


def call(*argv: str) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    return Answer(run(argv, Environment(out, err)), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """runs/t, runs/kd and runs/skd, in the folder that the tests of this module work in."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call("train-teacher", "--model", "cnn-small", "--name", "t", *SMALL).code == 0
        for method in ("kd", "skd"):
            assert (
                call(
                    "distill",
                    "-t",
                    "runs/t",
                    "--student",
                    "cnn-small",
                    "-m",
                    method,
                    "--name",
                    method,
                    *SMALL,
                ).code
                == 0
            )
        yield folder


def document(command: str, *argv: str) -> dict:
    """The envelope of a command, held to its schema."""
    answer = call(*command.split(), *argv, "--json")
    schema = schema_of(command)
    assert problems(answer.json, schema, schema) == []
    return answer.json


def test_distilling_under_a_teacher_takes_its_data(runs):
    data = document("distill", "-t", "runs/t", "--student", "cnn-small", *SMALL)["data"]
    assert data["data"] == "digits"
    assert Path(data["checkpoint"]).is_file()
    assert data == json.loads(Path(data["run"], "summary.json").read_text()), (
        "summary.json is exactly the data of --json"
    )


def test_evaluate(runs):
    answer = call(
        "evaluate",
        "runs/kd",
        "runs/skd/model.safetensors",
        "--per-class",
        "--save-logits",
        "logits.safetensors",
    )
    assert answer.code == 0
    assert answer.out.startswith("  test split · n = 360 · digits\n")
    assert "runs/kd " in answer.out
    assert "McNemar p " in answer.out
    assert "accuracy by class" in answer.out
    with safe_open("logits.safetensors", framework="numpy") as file:
        assert file.get_tensor("targets").shape == (360,)
    assert len(document("evaluate", "runs/kd", "runs/skd")["data"]["pairs"]) == 1


def test_evaluate_says_of_two_seeds_of_a_method_that_they_are(runs):
    student = ("distill", "-t", "runs/t", "--student", "cnn-small", "-m", "kd", *SMALL)
    call(*student, "--name", "other", "-s", "seed=7")
    answer = call("evaluate", "runs/kd", "runs/other")
    assert re.search(
        r"(kd and other|other and kd) are two seeds of kd: they differ by .*, (less|more) than",
        answer.out,
    )
    (pair,) = document("evaluate", "runs/kd", "runs/other")["data"]["pairs"]
    assert pair["two_seeds_of"] == "kd"
    assert "two seeds" not in call("evaluate", "runs/kd", "runs/skd").out
    recipe = Path("runs/other/recipe.toml")
    recipe.write_text(re.sub(r"(?m)^lr = .*", "lr = 0.123", recipe.read_text()))
    assert "two seeds" not in call("evaluate", "runs/kd", "runs/other").out


def test_evaluate_counts_a_run_and_the_link_to_it_once(runs):
    Path("runs/link").symlink_to("kd")
    try:
        evaluated = document("evaluate", "runs/link", "runs/kd")["data"]["evaluations"]
    finally:
        Path("runs/link").unlink()
    assert [item["checkpoint"] for item in evaluated] == ["runs/kd/model.safetensors"]


def test_evaluate_gates_name_their_checkpoint(runs):
    answer = call("evaluate", "runs/kd", "runs/skd", "--min-accuracy", "1.0")
    assert answer.code == 3
    assert [line.rpartition("(")[2] for line in answer.err.splitlines() if "gate" in line] == [
        "kd)",
        "skd)",
    ]


def test_gates_beside_another_run_and_beside_the_teacher(runs):
    same = document("evaluate", "runs/kd", "--not-below", "runs/kd")
    assert [(gate["name"], gate["passed"]) for gate in same["gates"]] == [("not_below", True)]
    assert same["gates"][0]["limit"] == same["gates"][0]["value"]
    sure = call("evaluate", "runs/kd", "--not-below", "runs/kd", "--confident")
    assert sure.code == 3
    assert "(95 % sure)" in sure.err
    under = call("analyze-gap", "--student", "runs/kd", "--within", "100")
    assert under.code == 0
    assert "gate within" in under.err
    behind = {
        command[0]: document(*command, "--within", "100")["gates"]
        for command in (("evaluate", "runs/kd"), ("analyze-gap", "--student", "runs/kd"))
    }
    assert behind["evaluate"] == behind["analyze-gap"]
    alone = call("evaluate", "runs/t", "--within", "100")
    assert alone.code == 3
    assert "t has no teacher, as far as its file tells" in alone.err
    student = ("distill", "-t", "runs/t", "--student", "cnn-small", "--name", "gated", *SMALL)
    missing = call(*student, "--not-below", "runs/nowhere")
    assert missing.code == 2
    assert "runs/nowhere" in missing.err
    assert not Path("runs/gated").exists()
    answer = document(*student, "--not-below", "runs/kd", "--within", "100")
    assert {gate["name"] for gate in answer["gates"]} == {"not_below", "within"}
    limits = [gate["limit"] for gate in answer["gates"] if gate["name"] == "not_below"]
    assert limits == [same["gates"][0]["value"]], "measured on the same images, by both commands"
    wrong = call("evaluate", "runs/kd", "--max-latency", "0")
    assert wrong.code == 2
    assert "--max-latency must be greater than 0" in wrong.err


def test_analyze_gap_of_the_newest_run(runs):
    call("distill", "-t", "runs/t", "--student", "cnn-small", "--name", "last", *SMALL)
    answer = call("analyze-gap", "--temperature", "1,4")
    assert answer.code == 0
    assert "newest distil run: runs/last" in answer.err
    assert "τ = 4" in answer.out
    assert "second order" in answer.out
    assert "largest:" in answer.out


def test_analyze_gap_of_pairs_with_files_and_gates(runs):
    answer = call(
        "analyze-gap", "-t", "runs/t", "--student", "runs/kd", "--student", "runs/skd", "--bootstrap", "10", "--csv", "gap.csv",
        "--max-entropy-gap", "-100",
    )  # fmt: skip
    assert answer.code == 3
    assert answer.err.count("✗ gate max-entropy-gap") == 2
    assert (
        Path("gap.csv")
        .read_text()
        .startswith("network,form,temperature,class,quantity,value,low,high,teacher\n")
    )
    assert (
        document("analyze-gap", "--student", "runs/kd", "--bootstrap", "10")["data"]["teacher"][
            "checkpoint"
        ]
        == "runs/t/model.safetensors"
    )


def test_analyze_gap_of_a_teacher_alone(runs):
    answer = call("analyze-gap", "-t", "runs/t", "--bootstrap", "10")
    assert answer.code == 0
    assert "response profile" in answer.out
    assert "100 %" not in answer.out


def test_compare_and_report(runs):
    answer = call("compare", "runs/kd", "runs/skd", "--plot", "curves.svg")
    assert answer.code == 0
    assert "method.name" in answer.out
    assert Path("curves.svg").is_file()
    shutil.copytree("runs/kd", "runs/again")
    Path("runs/again/report.md").unlink()
    assert document("report", "runs/again", "--no-html")["data"]["report"] == "runs/again/report.md"
    every = document("report", "runs")["data"]
    assert (every["run"], every["report"]) == ("runs", "runs/index.html")
    assert every["files"] == ["runs/index.html", "runs/index.md"]
    assert "(again/report.md)" in Path("runs/index.md").read_text()
    assert Path("runs/again/report.md").is_file()
    shutil.rmtree("runs/again")


def test_a_finished_run_is_not_resumed(runs):
    answer = call("resume", "runs/kd")
    assert answer.code == 2
    assert "nothing to resume" in answer.err


def test_sweep_and_table(runs):
    Path("base.toml").write_text(
        '[data]\ntrain_limit = 100\n[model]\nname = "cnn-small"\n[train]\nepochs = '
        "1\n[report]\nhtml = false\n"
    )
    Path("sweep.toml").write_text(
        'base = "base.toml"\n[axes]\nseed = [0, 1]\n[table]\nover = ["seed"]\n'
    )
    first = document("sweep", "sweep.toml", "--limit", "1", "-q")["data"]
    assert [cell["status"] for cell in first["cells"]] == ["done"]
    second = document("sweep", "sweep.toml", "-q")["data"]
    assert [cell["status"] for cell in second["cells"]] == ["skipped", "done"]
    (cell,) = document("table", "sweep.toml")["data"]["cells"]
    assert cell["n"] == 2
    drawn = call("table", "sweep.toml", "--plot", "sweep.png")
    assert "±" in drawn.out
    assert "sweep.png" in drawn.err
    assert Path("sweep.png").read_bytes().startswith(b"\x89PNG")


def test_dry_run_writes_nothing(runs):
    before = sorted(Path("runs").iterdir())
    assert call("distill", "-t", "runs/t", "--student", "cnn-small", "--dry-run", *SMALL).code == 0
    assert sorted(Path("runs").iterdir()) == before
