"""What is exported answers as the network does, wherever it is loaded; what would not is not
written.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kdcli import catalog
from kdcli.errors import BadCheckpoint, Incompatible, KdError, NotFound, UsageError
from kdcli.jobs import build_network, export, import_weights, load_network, predict
from kdcli.jobs.use import formats, torch_code
from kdcli.jobs.use.graph import Exportable, example, graph_of
from kdcli.results.export import ExportResult

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in formats._ONNX),
    reason="onnx, onnxruntime and onnxscript are not installed",
)
FORMATS = [
    pytest.param(kind, marks=needs_onnx if kind == "onnx" else ())
    for kind in formats.ENDINGS
    if kind != "hf"  # of other libraries' networks: test_library_folder.py
]
SOME = ("mlp", "cnn-small", "shufflenet_v2")
TORCHVISIONS = ("mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "swin_t", "vit_b_16")
# run where neither kdcli nor safetensors can be imported
STRANGER = """
import sys
for name in ("kdcli", "safetensors", "torchvision"):
    sys.modules[name] = None
import importlib.util, json, pathlib, torch
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    network = model.load(folder)
    assert isinstance(network, torch.nn.Module) and not network.training
    asked = torch.load(folder / "asked.pt")
    with torch.no_grad():
        for x, logits in asked:
            assert torch.allclose(network(x), logits, rtol=1e-5, atol=1e-5), folder.name
    assert all(parameter.requires_grad for parameter in network.parameters())
    print(folder.name)
"""


def network_of(name):
    """A network whose batch norms have seen something, and the shape that it takes."""
    shape = tuple(catalog.entry("model", name).facts.get("input_shape", (3, 32, 32)))
    if name.startswith("torchvision/"):
        shape = (3, 64, 64)
    network = build_network(name, num_classes=7, input_shape=shape)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval(), shape


def written(folder, name):
    """A network as a folder, with questions to it and its own answers."""
    network, shape = network_of(name)
    module = Exportable(network)
    program = graph_of(module, example(module, shape), name)
    folder.mkdir()
    about = {"class_names": list("abcdefg"), "preprocessing": {}}
    torch_code.write_folder(folder, program, about, name, "pictures")
    with torch.no_grad():
        asked = [(x, module(x)) for x in (torch.rand(size, *shape) for size in (1, 5))]
    torch.save(asked, folder / "asked.pt")


def loaded_by_a_stranger(folder):
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_networks_load_without_kdcli(tmp_path):
    for number, name in enumerate(SOME):
        written(tmp_path / str(number), name)
    assert len(loaded_by_a_stranger(tmp_path)) == len(SOME)


@pytest.mark.slow
def test_every_network_loads_without_kdcli(tmp_path):
    names = [
        name
        for name, found in catalog.entries("model").items()
        # what reads a text is not exported
        if not name.endswith("/*") and "task" not in found.facts
    ]
    names += [f"torchvision/{name}" for name in TORCHVISIONS]
    for number, name in enumerate(names):
        written(tmp_path / str(number), name)
    assert len(loaded_by_a_stranger(tmp_path)) == len(names)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("uint8", [False, True])
def test_each_format_answers_as_the_network(trained, tmp_path, kind, uint8):
    result = export(trained.out / "kd", format=kind, out=tmp_path / "out", uint8=uint8)
    check = result.check
    assert (check.pictures, check.source) == (256, "test split of digits")
    assert check.largest_difference < 1e-3
    assert check.agreement == 1.0
    network, answer = load_network(trained.out / "kd"), formats.read(kind, tmp_path / "out")
    pixels = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
    how = network.preprocessing
    x = (pixels / 255 - how.mean[0]) / how.std[0]
    with torch.no_grad():
        assert torch.allclose(answer(pixels if uint8 else x), network(x), atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class Onnx(NamedTuple):
    """An ONNX file of the student kd. result: what its export said."""

    path: Path
    result: ExportResult


@pytest.fixture(scope="module")
def as_onnx(trained, tmp_path_factory) -> Callable[[bool], Onnx]:
    """The student as an ONNX file, of pictures in float32 or in uint8: written once, because the
    exporter takes seconds.
    """

    @functools.cache
    def written(uint8: bool = False) -> Onnx:
        path = tmp_path_factory.mktemp("onnx") / "m.onnx"
        return Onnx(path, export(trained.out / "kd", format="onnx", out=path, uint8=uint8))

    return written


@needs_onnx
def test_an_onnx_file_says_what_goes_in_and_what_comes_out(as_onnx):
    import onnx

    path, result = as_onnx()
    model = onnx.load(path)
    said = {item.key: item.value for item in model.metadata_props}
    assert json.loads(said["class_names"]) == list("0123456789")
    assert json.loads(said["preprocessing"])["input_shape"] == [1, 8, 8]
    assert said["input"] == "float32"
    [given] = model.graph.input
    assert [size.dim_param or size.dim_value for size in given.type.tensor_type.shape.dim] == [
        "batch", 1, 8, 8,
    ]  # fmt: skip
    assert result.opset == 18
    content = path.read_bytes()
    assert str(Path(torch_code.__file__).parents[2]).encode() not in content


@needs_onnx
@pytest.mark.parametrize("uint8", [False, True])
def test_an_onnx_file_predicts_as_its_run_does(trained, as_onnx, tmp_path, uint8):
    draw = np.random.default_rng(0)
    for number in range(5):
        pixels = draw.integers(0, 256, (9, 11 + number), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    theirs, ours = (
        predict(model, [tmp_path], top=10) for model in (as_onnx(uint8).path, trained.out / "kd")
    )
    for one, other in zip(theirs.predictions, ours.predictions, strict=True):
        assert [guess.index for guess in one.top] == [guess.index for guess in other.top]
        assert one.top[0].probability == pytest.approx(other.top[0].probability, abs=1e-5)


@needs_onnx
def test_onnx_files_that_predict_nothing(as_onnx, tmp_path):
    import onnx

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(NotFound):
        predict(tmp_path / "m.onnx", [tmp_path / "a.png"])
    model = onnx.load(as_onnx().path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    (tmp_path / "damaged.onnx").write_bytes(as_onnx().path.read_bytes()[:3000])
    for name, told in {"foreign": "does not say its classes", "damaged": "is damaged"}.items():
        with pytest.raises(BadCheckpoint, match=told):
            predict(tmp_path / f"{name}.onnx", [tmp_path / "a.png"])


@needs_onnx
def test_an_opset_that_the_exporter_does_not_write(trained, tmp_path):
    with pytest.raises(Incompatible, match="opset 9"):
        export(trained.out / "kd", format="onnx", out=tmp_path / "m.onnx", opset=9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["pytorch", "torchscript"])
def test_what_answers_otherwise_is_not_left(trained, tmp_path, monkeypatch, kind):
    right = formats.read

    def wrong(kind, path):
        answer = right(kind, path)
        return lambda x: answer(x) + 0.5

    monkeypatch.setattr(formats, "read", wrong)
    with pytest.raises(KdError, match="answers otherwise") as caught:
        export(trained.out / "kd", format=kind, out=tmp_path / "out")
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(trained, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        export(trained.out / "kd", format="pt2", out=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_without_its_package_the_message_says_what_to_install(trained, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "onnxscript" else find(name, *more),
    )
    with pytest.raises(UsageError, match="needs onnxscript") as caught:
        export(trained.out / "kd", format="onnx", out=tmp_path / "m.onnx")
    assert caught.value.hint == "pip install 'kdcli[onnx]'"


def test_data_that_are_gone_are_made_up_and_said(trained, tmp_path, monkeypatch):
    from kdcli.jobs.use import own_data as module

    def gone(*_, **__):
        raise NotFound("no such file: x.npz")

    monkeypatch.setattr(module, "open_feed", gone)
    result = export(trained.out / "kd", format="torchscript", out=tmp_path / "m")
    assert result.check.source == "made-up pictures"
    assert result.warnings == ("compared on 32 made-up pictures: no such file: x.npz",)


def test_a_network_whose_answer_depends_on_a_value_is_refused():
    class Odd(nn.Module):
        def forward(self, x):
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    module = Exportable(Odd())
    with pytest.raises(Incompatible, match="odd cannot be written as a graph"):
        graph_of(module, torch.zeros(2, 1, 2, 2), "odd")


@pytest.fixture(scope="module")
def imported(trained, tmp_path_factory):
    """A network of weights that were trained elsewhere, on data that nobody named."""
    folder = tmp_path_factory.mktemp("imported")
    torch.save(load_network(trained.out / "teacher").network.state_dict(), folder / "w.pth")
    import_weights(
        folder / "w.pth",
        model="mlp",
        out=folder / "run",
        input_shape=(1, 8, 8),
        mean=(0.3,),
        std=(0.3,),
    )
    return folder / "run"


def test_a_network_that_was_imported_without_its_data_is_used_like_any_other(imported, tmp_path):
    Image.new("L", (8, 8), 100).save(tmp_path / "a.png")
    [found] = predict(imported, [tmp_path / "a.png"]).predictions
    assert [guess.label for guess in found.top] == [str(guess.index) for guess in found.top]
    result = export(imported, format="torchscript", out=tmp_path / "m.torchscript")
    assert result.check.source == "made-up pictures"
    assert "does not say what it was trained on" in result.warnings[0]


@needs_onnx
def test_an_onnx_file_that_answers_otherwise_than_it_says_is_refused(as_onnx, tmp_path):
    import onnx

    Image.new("L", (8, 8), 100).save(tmp_path / "a.png")
    model = onnx.load(as_onnx().path)
    said = {entry.key: entry for entry in model.metadata_props}
    said["class_names"].value = '["a", "b"]'
    onnx.save(model, tmp_path / "fewer.onnx")
    with pytest.raises(BadCheckpoint, match="names 2 classes, and answers 1 pictures with"):
        predict(tmp_path / "fewer.onnx", [tmp_path / "a.png"])
    model.graph.input[0].name = "other"
    for node in model.graph.node:
        node.input[:] = ["other" if name == "pictures" else name for name in node.input]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(BadCheckpoint, match="does not answer pictures as it says"):
        predict(tmp_path / "other.onnx", [tmp_path / "a.png"])
