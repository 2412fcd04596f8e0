"""Texts sorted into classes: trained, distilled, measured, asked, stopped and gone on with."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from kdcli.errors import Incompatible, Interrupted, KdError, UsageError
from kdcli.files import sha256_file
from kdcli.jobs import analyze_gap, distill, evaluate, export, predict, resume, train_teacher
from kdcli.results.weights_header import read_header
from tests.unit.jobs.language.test_runs import StopAt

WORDS = {"cold": ("snow", "ice", "frost"), "warm": ("sun", "sand", "fire"), "wet": ("rain", "sea", "river")}  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    rows = [
        {"text": f"we saw {'no ' * (n % 3)}{word} on day {n}", "label": label}
        for n in range(20)
        for label, words in WORDS.items()
        for word in words
    ]
    for part, chosen in (("train", rows[:120]), ("valid", rows[120:150]), ("test", rows[150:])):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    return folder


def settings(texts, **changes):
    return {
        "data.name": "labelled-text", "data.path": str(texts), "data.length": 8, "train.epochs": 6,
        "train.batch_size": 12, "optim.name": "adamw", "optim.lr": 0.01, "report.latency": False,
        "report.html": False, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    network = {
        "model.name": "text_encoder",
        "model.width": 16,
        "model.layers": 1,
        "model.dropout": 0.0,
    }
    teacher = train_teacher(out=out, name="teacher", overrides={**settings(texts), **network})
    values = student(texts, out)
    return SimpleNamespace(
        out=out, teacher=teacher, student=distill(out=out, name="student", overrides=values)
    )


def student(texts, out, **changes):
    return settings(texts, **{
        "teacher.checkpoint": str(out / "teacher"), "student.name": "bag_of_words", "student.width": 4,
        "method.name": "kd", **changes,
    })  # fmt: skip


def test_a_run_is_judged_by_accuracy_and_explained(made):
    assert made.teacher.test.accuracy > 0.9
    _, header = read_header(made.out / "student")
    assert header.vocabulary.tokens[:2] == ("<pad>", "<unk>")
    assert "snow" in header.vocabulary.tokens
    assert header.arguments["vocabulary"] == len(header.vocabulary.tokens)
    said = (made.out / "student" / "report.md").read_text().partition("## Recipe")[0]
    assert "image" not in said
    assert "texts" in said
    assert made.student.gap is not None


def test_a_checkpoint_measures_and_answers_as_its_run_did(made, texts, tmp_path):
    found = evaluate([made.out / "student", made.out / "teacher"])
    assert found.evaluations[1].measures.nll == pytest.approx(made.teacher.test.nll, rel=1e-6)
    assert analyze_gap(made.out / "teacher", [made.out / "student"]).explanation is not None
    asked = predict(made.out / "teacher", ["we saw snow", str(texts / "test.jsonl")], top=1)
    assert asked.predictions[0].top[0].label == "cold"
    assert len(asked.predictions) == 31
    lines = tmp_path / "lines.txt"
    lines.write_text("rain rain rain rain rain rain rain rain rain\n\nquux\n")
    asked = predict(made.out / "teacher", [str(lines)])
    assert [item.file for item in asked.predictions] == [f"{lines}, line 1", f"{lines}, line 3"]
    assert [warning.partition(": ")[2] for warning in asked.warnings] == [
        "cut at 8 tokens, as long as the network reads",
        "none of its words is in the network's vocabulary",
    ]


@pytest.mark.slow
def test_an_exported_network_takes_texts_too(made, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    written = export(made.out / "student", format="onnx", out=tmp_path / "student.onnx")
    assert written.input == "int64"
    one, other = (
        predict(path, ["we saw fire"]).predictions[0].top[0]
        for path in (made.out / "student", tmp_path / "student.onnx")
    )
    assert one.label == other.label
    assert one.probability == pytest.approx(other.probability, abs=1e-5)
    with pytest.raises(Incompatible, match="--int8 is of networks of pictures"):
        export(made.out / "student", format="onnx", out=tmp_path / "int8.onnx", int8=True)


def test_a_stopped_run_goes_on_bit_for_bit(made, texts, tmp_path):
    values = student(texts, made.out, **{"train.state_seconds": 1e-9, "student.dropout": 0.2})
    whole = distill(out=tmp_path, name="whole", overrides=values)
    with pytest.raises(Interrupted):
        distill(out=tmp_path, name="cut", overrides=values, listeners=[StopAt(8)])
    assert resume(tmp_path / "cut").test == whole.test
    one, other = (sha256_file(tmp_path / name / "model.safetensors") for name in ("cut", "whole"))
    assert one == other


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data.vocabulary": 9}, "the vocabulary of the teacher is not that of labelled-text: it has"),
        ({"data.length": 9}, "teacher takes texts of 8 tokens, labelled-text has 9"),
        ({"data.lower": False}, "data.lower is True to it and False here"),
        ({"method.name": "at"}, "text gives networks none"),
        ({"data.augment.flip": True}, "text has no pictures"),
        ({"student.name": "lstm_small", "student.width": None}, "network for language modelling"),
        ({"gates.max_perplexity": 3.0}, "judged by accuracy"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_training(made, texts, tmp_path, changes, told):
    values = {key: value for key, value in student(texts, made.out, **changes).items() if value is not None}  # fmt: skip
    with pytest.raises((Incompatible, UsageError)) as caught:
        distill(out=tmp_path, overrides=values)
    assert told in f"{caught.value} {getattr(caught.value, 'diagnostics', '')}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "told"),
    [(" ", "has no text in it"), ("missing.jsonl", "no such file: missing.jsonl"), (".", "is a folder")],
)  # fmt: skip
def test_what_is_no_text_is_told(made, given, told):
    with pytest.raises(KdError, match=told):
        predict(made.out / "student", [given])
