"""ONNX in eight bits: what it costs is measured, and what costs too much is not written."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kdcli.cli.app import run
from kdcli.cli.console import Environment
from kdcli.errors import Incompatible, NotFound, UsageError
from kdcli.jobs import export, import_weights, predict
from kdcli.jobs.measure.forms import int8_beside
from kdcli.jobs.use import int8 as eight_bits
from kdcli.jobs.use.export import place_of

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'kdcli[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


def test_a_network_in_eight_bits_answers_nearly_as_before(trained, tmp_path):
    result = export(
        trained.out / "teacher",
        format="onnx",
        out=tmp_path / "m.onnx",
        int8=True,
        calibration=64,
        max_drop=5,
        uint8=True,
    )
    found = result.int8
    assert result.written
    assert (found.calibration, found.tested, found.data) == (64, 360, "digits")
    assert found.accuracy == pytest.approx(trained.teacher.test.accuracy, abs=1e-6)
    assert found.agreement > 0.95
    assert found.drop == pytest.approx(100 * (found.accuracy - found.accuracy_int8))
    model = onnx.load(tmp_path / "m.onnx")
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
    said = {item.key: item.value for item in model.metadata_props}
    assert json.loads(said["class_names"]) == list("0123456789")
    assert said["quantised"] == "int8, by 64 images"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    [answer] = predict(tmp_path / "m.onnx", [tmp_path / "a.png"], top=10).predictions
    assert len(answer.top) == 10


def test_what_costs_too_much_is_not_written_and_ends_in_3(trained, tmp_path, monkeypatch):
    def spoilt(path, images, count, prepare):
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32:  # and not the shapes
                zeros = onnx.numpy_helper.from_array(np.zeros_like(values), tensor.name)
                tensor.CopyFrom(zeros)
        onnx.save(model, path)
        return count

    monkeypatch.setattr(eight_bits, "quantise", spoilt)
    out, error = io.StringIO(), io.StringIO()
    asked = ["export", str(trained.out / "teacher"), "--format", "onnx", "--int8", "--json"]
    code = run([*asked, "-o", str(tmp_path / "m.onnx")], Environment(out, error, {}))
    document = json.loads(out.getvalue())
    assert code == 3
    assert document["status"] == "gate_failed"
    [gate] = document["gates"]
    assert (gate["name"], gate["limit"], gate["passed"]) == ("max_drop", 1.0, False)
    assert document["data"]["int8"]["accuracy"] > document["data"]["int8"]["accuracy_int8"]
    assert "not written: int8 costs" in error.getvalue()
    assert list(tmp_path.iterdir()) == []


def test_it_lies_where_latency_is_measured(tmp_path):
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.touch()
    place = place_of(checkpoint, "onnx", int8=True)
    assert place != place_of(checkpoint, "onnx")
    place.touch()
    assert int8_beside(checkpoint) == place


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "pt2", "int8": True}, "pt2 has no int8"),
        ({"format": "onnx", "max_drop": 2}, "--max-drop goes with --int8"),
        ({"format": "onnx", "calibration": 8}, "--calibration goes with --int8"),
        ({"format": "onnx", "int8": True, "calibration": 0}, "1 or more"),
        ({"format": "onnx", "int8": True, "max_drop": -1}, "0 to 100 points"),
        ({"format": "onnx", "int8": True, "opset": 12}, "opset 13 or newer"),
    ],
)
def test_what_does_not_go_together_is_refused_before_work(trained, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        export(trained.out / "kd", out=tmp_path / "m", **options)
    assert list(tmp_path.iterdir()) == []


def test_without_data_there_is_no_int8(tmp_path):
    weights = {"0.weight": torch.zeros(3, 3 * 32 * 32), "0.bias": torch.zeros(3)}
    factory = tmp_path / "net.py"
    factory.write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes))\n"
    )
    weights = {key.replace("0.", "1."): value for key, value in weights.items()}
    save_file(weights, tmp_path / "w.safetensors")
    import_weights(
        tmp_path / "w.safetensors",
        model=f"{factory}:net",
        input_shape=(3, 32, 32),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        out=tmp_path / "run",
    )
    with pytest.raises((NotFound, Incompatible, UsageError)) as caught:
        export(
            tmp_path / "run", format="onnx", int8=True, out=tmp_path / "m.onnx",
            trust=True,
        )  # fmt: skip
    assert not (tmp_path / "m.onnx").exists()
    assert "data" in caught.value.message
