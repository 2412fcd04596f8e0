"""`--json`: one document on stdout that its schema admits, on success and on failure; and schemas
that are up to date.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest

from kdcli.cli.commands.schema import envelope_schemas, schema_of
from kdcli.errors import Interrupted, NonFiniteLoss
from kdcli.results.export import ExportCheck, ExportResult
from kdcli.results.measures import EvaluateResult, Evaluation, GateResult, PairTest
from kdcli.results.predictions import Guess, Prediction, PredictResult, Unread
from tests.cli.conftest import measures, prepared, result, training
from tests.cli.schema_check import problems

KEYS = ["kd", "command", "status", "exit_code", "data", "gates", "errors", "warnings"]


def check(answer, command):
    document = answer.json
    schema = schema_of(command)
    assert list(document) == KEYS
    assert problems(document, schema, schema) == []
    assert document["exit_code"] == answer.code
    return document


def test_success_with_gates(kd, pretend):
    gate = GateResult("min_accuracy", 0.74, 0.972, passed=True)
    pretend(
        "distill",
        result(gates=(gate,), warnings=("the teacher is worse than the student",)),
        [prepared(), *training()],
    )
    answer = kd("distill", "--json")
    document = check(answer, "distill")
    assert document["status"] == "ok"
    assert document["data"]["test"]["accuracy"] == 0.972
    assert document["data"]["gap"] == {
        "temperature": 1.0,
        "entropy": 0.081,
        "free_energy": 0.04,
        "aligned": False,
    }
    assert document["gates"] == [
        {
            "name": "min_accuracy",
            "limit": 0.74,
            "value": 0.972,
            "passed": True,
            "subject": "",
            "confident": False,
        }
    ]
    assert document["warnings"] == ["the teacher is worse than the student"]
    assert "stage=distill" in answer.err, "stderr is what it is without --json"


def test_a_missed_gate_keeps_the_data(kd, pretend):
    pretend("distill", result(gates=(GateResult("max_ece", 0.01, 0.021, passed=False),)))
    document = check(kd("distill", "--json", "-q"), "distill")
    assert (document["status"], document["exit_code"]) == ("gate_failed", 3)
    assert document["data"]["run"]


def test_numbers_that_are_not_finite_are_null(kd, pretend):
    pretend("distill", result(test=measures(nll=math.inf, ece=math.nan)))
    document = check(kd("distill", "--json"), "distill")
    assert document["data"]["test"]["nll"] is None
    assert document["data"]["test"]["ece"] is None


def test_all_problems_of_a_recipe_with_their_places(kd, tmp_path):
    (tmp_path / "r.toml").write_text(
        'extends = "quickstart"\n[data]\nname = "digit"\n[train]\nepoch = 3\n'
    )
    document = check(kd("distill", "r.toml", "--json"), "distill")
    assert document["status"] == "usage"
    assert document["data"] is None
    where = [error["where"] for error in document["errors"]]
    assert [(place["file"], place["line"], place["column"], place["key"]) for place in where] == [
        ("r.toml", 3, 8, "data.name"),
        ("r.toml", 5, 1, "train.epoch"),
    ]
    assert {error["code"] for error in document["errors"]} == {"RECIPE_INVALID"}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NonFiniteLoss("loss ce is NaN", hint="lower optim.lr"), "failed", "NAN_LOSS"),
        (
            Interrupted("interrupted; the state is saved", hint="kd resume runs/x"),
            "interrupted",
            "INTERRUPTED",
        ),
        (RuntimeError("a bug"), "failed", "FAILURE"),
    ],
)
def test_failures(kd, pretend, error, status, code):
    pretend("distill", error)
    document = check(kd("distill", "--json"), "distill")
    assert document["status"] == status
    assert document["errors"][0]["code"] == code


@pytest.mark.parametrize(
    "argv", [("distill", "--no-such-flag", "--json"), ("--json", "distill", "--epochs", "x")]
)
def test_mistakes_on_the_command_line(kd, argv):
    document = check(kd(*argv), "distill")
    assert document["errors"][0]["code"] == "USAGE"


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("methods", ("methods",)),
        ("methods", ("methods", "skd")),
        ("models", ("models",)),
        ("models", ("models", "cnn-small", "-d", "digits")),
        ("models", ("models", "cnn-*", "-d", "digits")),
        ("datasets", ("datasets",)),
        ("datasets", ("datasets", "digits")),
        ("recipes", ("recipes",)),
        ("recipes ls", ("recipes", "ls")),
        ("recipes show", ("recipes", "show", "quickstart")),
        ("recipes cp", ("recipes", "cp", "quickstart", "mine.toml")),
        ("check", ("check", "quickstart", "quickstart-teacher", "tables/energy-table7")),
        ("check", ("check", "quickstart", "-s", "train.epochs=0")),
        ("check", ("check", "--data", "quickstart")),
        ("check", ("check", "--data", "-s", "data.name=image-folder", "-s", "data.path=nowhere")),
        ("schema", ("schema",)),
        ("table", ("table", "tables/energy-table7")),
        ("doctor", ("doctor",)),
        ("compare", ("compare", "nowhere", "elsewhere")),
        ("report", ("report", "nowhere")),
        ("resume", ("resume", "nowhere")),
        ("sweep", ("sweep", "nowhere")),
        ("evaluate", ("evaluate", "nowhere")),
        ("import", ("import", "nowhere.pth")),
        ("predict", ("predict", "nowhere", "picture.png")),
        ("export", ("export", "nowhere", "--format", "onnx")),
        ("analyze-gap", ("analyze-gap",)),
    ],
)
def test_every_command(kd, command, argv):
    check(kd(*argv, "--json"), command)


def test_evaluate(kd, pretend, monkeypatch):
    monkeypatch.setattr("kdcli.cli.commands.evaluate._distinct", lambda paths: paths)
    evaluation = Evaluation(
        "runs/a/model.safetensors",
        "cnn-small",
        20_500,
        "kd",
        "digits",
        measures(),
        {"0": 1.0, "1": 0.5},
    )
    pretend("evaluate", EvaluateResult((evaluation,), (PairTest("a", "b", 0.005, 0.62),)))
    check(kd("evaluate", "a", "--json"), "evaluate")


def test_predictions_with_a_file_that_cannot_be_read(kd, pretend, monkeypatch):
    monkeypatch.setattr("kdcli.results.weights_header.read_header", lambda path: None)
    seen = Prediction("a.png", (Guess("ant", 0, 0.75), Guess("bee", 1, 0.25)))
    unread = Unread("b.png", "b.png is not an image, or is damaged")
    pretend("predict", PredictResult("runs/x/model.safetensors", 2, (seen,), (unread,)))
    answer = kd("predict", "runs/x", "a.png", "b.png", "--json", "--csv", "t.csv")
    document = check(answer, "predict")
    assert (document["status"], document["exit_code"]) == ("failed", 1)
    assert document["data"]["predictions"][0]["top"][0]["label"] == "ant"
    assert document["errors"][0]["where"]["file"] == "b.png"
    assert "error: b.png is not an image" in answer.err
    assert Path("t.csv").read_text().splitlines() == [
        "file,rank,label,index,probability",
        "a.png,1,ant,0,0.75",
        "a.png,2,bee,1,0.25",
    ]


def test_export(kd, pretend, monkeypatch):
    monkeypatch.setattr("kdcli.cli.commands.export.measured_on", lambda *given: None)
    monkeypatch.setattr("kdcli.cli.commands.export.warn_of_unsigned", lambda *given: ())
    shown = ExportCheck(256, "test split of digits", 1.9e-05, 0.027, 1.0)
    pretend(
        "export",
        ExportResult(
            "runs/x/model.safetensors", "mlp", "onnx", "x.onnx", 83_000, 20_500, 10, "uint8",
            (1, 8, 8), shown, 18,
        ),
    )  # fmt: skip
    answer = kd("export", "runs/x", "--format", "onnx", "--json")
    assert check(answer, "export")["data"]["check"]["agreement"] == 1.0
    assert "logits differ by 1.9e-05 at most" in answer.err


def test_ascii_where_stdout_has_no_unicode(kd):
    class Ascii(io.StringIO):
        encoding = "ascii"

    answer = kd("recipes", "show", "quickstart", "--json", stdout=Ascii())
    assert answer.out.isascii()
    assert answer.json["data"]["name"] == "quickstart"


def test_schemas_in_the_documentation_are_up_to_date(root):
    folder = root / "docs" / "reference" / "json"
    written = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    assert written == envelope_schemas(), "run: make docs"
