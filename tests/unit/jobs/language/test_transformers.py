"""Networks of transformers as teachers and students of texts, out of folders with random weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from kdcli.errors import Incompatible, Interrupted, UsageError
from kdcli.files import sha256_file
from kdcli.jobs import (
    analyze_gap,
    describe_model,
    distill,
    evaluate,
    export,
    predict,
    resume,
    train_teacher,
    usual_classes,
)
from kdcli.results.weights_header import read_header
from tests.unit.jobs.language.test_runs import WORDS, StopAt
from tests.unit.models import tiny_hf_text

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'kdcli[hf]'")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A text of lines, sentences with classes, and folders of networks with their tokenizer."""
    top = tmp_path_factory.mktemp("transformers")
    lines = [" ".join(WORDS[(n + 3 * k) % 10] for k in range(7)) for n in range(120)]
    (top / "lines.txt").write_text("\n".join(lines) + "\n")
    rows = [
        {"text": f"the {word} {'no ' * (n % 4)}{other}", "label": label}
        for n in range(12)
        for label, word in (("pet", "cat"), ("wild", "bird"), ("pet", "dog"), ("wild", "fish"))
        for other in ("sees", "hears")
    ]
    (top / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_hf_text.save(top / "gpt2", "gpt2", WORDS)
    tiny_hf_text.save(top / "llama", "llama", WORDS)
    tiny_hf_text.save(top / "bert", "bert", WORDS, classes=2)
    tiny_hf_text.save(top / "distilbert", "distilbert", WORDS, classes=2)
    tiny_hf_text.save(top / "other", "gpt2", WORDS[::-1])
    return top


def language(top, **changes):
    return {
        "data.name": "text", "data.path": str(top / "lines.txt"), "data.tokenizer": str(top / "gpt2"),
        "data.window": 8, "data.val_fraction": 0.1, "train.epochs": 2, "train.batch_size": 4,
        "optim.name": "adamw", "optim.lr": 0.02, "report.html": False, "report.latency": False, **changes,
    }  # fmt: skip


def sorting(top, **changes):
    return {
        "data.name": "labelled-text", "data.path": str(top / "rows.jsonl"), "data.tokenizer": str(top / "bert"),
        "data.length": 8, "train.epochs": 12, "train.batch_size": 16, "optim.name": "adamw", "optim.lr": 0.02,
        "report.html": False, "report.latency": False, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(texts):
    out = texts / "runs"
    model = {"model.name": f"hf/{texts / 'gpt2'}", "model.weights": "DEFAULT"}
    teacher = train_teacher(out=out, name="gpt2", overrides={**language(texts), **model})
    sorter = {"model.name": f"hf/{texts / 'bert'}", "model.weights": "DEFAULT"}
    bert = train_teacher(out=out, name="bert", overrides={**sorting(texts), **sorter})
    return SimpleNamespace(out=out, teacher=teacher, bert=bert)


def test_a_language_model_of_a_folder_teaches_another_one(made, texts, tmp_path):
    _, header = read_header(made.out / "gpt2")
    assert header.class_names[5] == "the"
    assert header.data["tokenizer"] == str(texts / "gpt2")
    values = language(texts, **{
        "teacher.checkpoint": str(made.out / "gpt2"), "student.name": f"hf/{texts / 'llama'}",
        "method.name": "kd", "train.state_seconds": 1e-9,
    })  # fmt: skip
    whole = distill(out=tmp_path, name="whole", overrides=values)
    assert whole.test.perplexity < len(header.class_names)
    assert whole.gap is not None
    with pytest.raises(Interrupted):
        distill(out=tmp_path, name="cut", overrides=values, listeners=[StopAt(20)])
    assert resume(tmp_path / "cut").test == whole.test
    one, other = (sha256_file(tmp_path / name / "model.safetensors") for name in ("cut", "whole"))
    assert one == other
    # the folder of its architecture is needed no more
    found = evaluate([tmp_path / "whole", made.out / "gpt2"])
    assert found.evaluations[0].measures.nll == pytest.approx(whole.test.nll, rel=1e-6)
    assert analyze_gap(made.out / "gpt2", [tmp_path / "whole"]).texts[0].by_place
    with pytest.raises(Incompatible, match="an exported file would not"):
        export(tmp_path / "whole", format="onnx")


def test_a_folder_says_what_it_is_for(texts):
    name = f"hf/{texts / 'gpt2'}"
    assert usual_classes(name) == 15
    assert tuple(describe_model(name, 15).input_shape) == (1, 1, 1)
    assert tuple(describe_model(f"hf/{texts / 'bert'}").input_shape) == (1, 1, 22)


def test_weights_of_a_folder_teach_a_network_of_kd(texts, tmp_path):
    values = language(texts, **{
        "teacher.name": f"hf/{texts / 'gpt2'}", "student.name": "gpt_small", "student.width": 12,
        "student.heads": 2, "student.context": 8, "method.name": "kd", "train.epochs": 1,
    })  # fmt: skip
    run = distill(out=tmp_path, overrides=values)
    assert run.gap is not None


def test_a_classifier_of_a_folder_teaches_and_answers(made, texts, tmp_path):
    assert made.bert.test.accuracy > 0.9
    values = sorting(texts, **{
        "teacher.checkpoint": str(made.out / "bert"), "student.name": f"hf/{texts / 'distilbert'}",
        "student.weights": "DEFAULT", "method.name": "kd",
    })  # fmt: skip
    run = distill(out=tmp_path, name="student", overrides=values)
    assert run.gap is not None
    asked = predict(made.out / "bert", ["the cat sees", "the bird no no no no no no hears"])
    assert [each.top[0].label for each in asked.predictions] == ["pet", "wild"]
    assert asked.warnings == (
        "the bird no no no no no no hears: cut at 8 tokens, as long as the network reads",
    )


def test_what_a_library_folder_is_not_for_is_told(made):
    with pytest.raises(Incompatible, match="--format hf is of networks of pictures"):
        export(made.out / "bert", format="hf")


@pytest.mark.slow
def test_an_exported_classifier_reads_by_its_tokenizer_too(made, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(made.out / "bert", format="onnx", out=tmp_path / "bert.onnx")
    one, other = (
        predict(path, ["the cat no sees"]).predictions[0].top[0]
        for path in (made.out / "bert", tmp_path / "bert.onnx")
    )
    assert one.label == other.label
    assert one.probability == pytest.approx(other.probability, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data.tokenizer": None}, "no common vocabulary"),
        ({"teacher.name": "other"}, "token 5 is 'fish' to it, and 'the' to the text"),
        ({"student.name": "other", "student.weights": "DEFAULT"}, "token 5 is 'fish' to it"),
        ({"data.window": 30}, "the network reads 24 tokens at once, and a window has 30"),
        ({"data.lower": True}, "and so do data.lower and data.tokens"),
        ({"data.tokenizer": "nowhere"}, "no such file or folder: nowhere"),
        ({"method.name": "at"}, "text gives networks none"),
        ({"student.name": "bert"}, "depends on those after it"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_training(texts, tmp_path, changes, told):
    values = language(texts, **{
        "teacher.name": "gpt2", "student.name": "llama", "method.name": "kd", **changes,
    })  # fmt: skip
    for key in ("teacher.name", "student.name"):
        values[key] = f"hf/{texts / values[key]}"
    given = {key: value for key, value in values.items() if value is not None}
    with pytest.raises((Incompatible, UsageError)) as caught:
        distill(out=tmp_path, overrides=given)
    assert told in f"{caught.value} {getattr(caught.value, 'diagnostics', '')}"
    assert not list(tmp_path.iterdir())
