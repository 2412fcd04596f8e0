"""Each network sees a picture as its own library, checkpoint or author prepares it, and the recipe
says otherwise where it wants to.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from torchvision.models import ResNet18_Weights

from kdcli.engine.evaluator import collect
from kdcli.engine.runtime import Runtime
from kdcli.errors import Incompatible, UsageError
from kdcli.jobs import distill, evaluate, export, train_teacher
from kdcli.jobs.build.datasets import open_feed
from kdcli.jobs.build.teachers import pretrained_teacher
from kdcli.recipe.schema import DataSection, branch
from kdcli.results.preprocessing import Preprocessing, Sight

SIZES = ((37, 61), (64, 48), (90, 31), (40, 40), (25, 70), (33, 32))
SMALL = {"data.size": 24, "student.hidden": [8], "train.epochs": 1, "report.html": False}
FACTORY = """
from pathlib import Path
from safetensors.torch import load_file
from torch import nn

def net(num_classes):
    network = nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.Flatten(), nn.Linear(400, 3))
    network.load_state_dict(load_file(Path(__file__).with_name("w.safetensors")))
    network.input_size, network.input_resize = (32, 32), {resize}
    network.input_mean, network.input_std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    {more}
    return network
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pictures of odd sizes, of three classes."""
    noise = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 6)):
        for label in range(3):
            place = tmp_path / "pictures" / part / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                high, wide = SIZES[number]
                coarse = noise.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                picture = Image.fromarray(coarse).resize((wide, high), Image.Resampling.BICUBIC)
                picture.save(place / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pictures"


def opened(folder, **options):
    section = branch(DataSection, "image-folder")(name="image-folder", path=str(folder), **options)
    return open_feed(section, device=torch.device("cpu"), seed=0)


def alone(net: nn.Module, transform, folder) -> torch.Tensor:
    """What a network answers in its own library, one picture after another."""
    files = sorted((folder / "test").rglob("*.png"))
    x = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        return net.eval()(x)


def inside(loaded, feed) -> torch.Tensor:
    return collect(lambda batch: loaded.teacher(batch).logits, seen(loaded, feed).split("test"))[0]


def seen(loaded, feed):
    return feed.showing([loaded.teacher.sees])


@pytest.fixture(scope="module")
def resnet():
    """torchvision's own network with weights made here, as if they had been downloaded."""
    torch.manual_seed(0)
    net = models.resnet18(num_classes=3)
    net.conv1.weight.data *= 3
    return net.eval()


@pytest.fixture
def published(resnet, monkeypatch):
    """torchvision's weights are those, and of three classes."""
    monkeypatch.setitem(ResNet18_Weights.IMAGENET1K_V1.value.meta, "categories", ["a", "b", "c"])
    monkeypatch.setattr(
        ResNet18_Weights, "get_state_dict", lambda *_given, **_more: resnet.state_dict()
    )


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_teacher_of_torchvision_answers_as_in_torchvision(workers, resnet, folder):
    section = branch(DataSection, "image-folder")(name="image-folder", path=str(folder), size=24)
    feed = open_feed(section, device=torch.device("cpu"), seed=0, workers=workers)
    loaded = pretrained_teacher(
        "torchvision/resnet18", "IMAGENET1K_V1", feed.info, Runtime("cpu", precision="fp32")
    )
    assert loaded.teacher.sees.pixels == Preprocessing(
        (3, 224, 224),
        256,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        resampler="pillow",
    )
    expected = alone(resnet, ResNet18_Weights.IMAGENET1K_V1.transforms(), folder)
    torch.testing.assert_close(inside(loaded, feed), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def timms(tmp_path):
    """A network of timm, a file with its weights, and timm's own transform for it."""
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'kdcli[timm]'")
    torch.manual_seed(0)
    net = timm.create_model("test_vit", num_classes=3).eval()
    nn.init.normal_(net.get_classifier().weight)
    save_file(net.state_dict(), tmp_path / "vit.safetensors")
    config = timm.data.resolve_model_data_config(net)
    return net, str(tmp_path / "vit.safetensors"), timm.data.create_transform(**config)


def test_a_teacher_of_timm_answers_as_in_timm(timms, folder):
    net, file, transform = timms
    feed = opened(folder, size=24)
    loaded = pretrained_teacher("timm/test_vit", file, feed.info, Runtime("cpu", precision="fp32"))
    assert loaded.teacher.sees.pixels.input_shape == (3, 160, 160)
    assert loaded.teacher.sees.pixels.resize == 168
    torch.testing.assert_close(
        inside(loaded, feed), alone(net, transform, folder), rtol=1e-4, atol=1e-4
    )


def test_its_accuracy_in_a_run_is_that_in_its_own_library(timms, folder, tmp_path):
    net, file, transform = timms
    labels = torch.arange(3).repeat_interleave(6)
    expected = (alone(net, transform, folder).argmax(1) == labels).double().mean()
    found = distill(
        student="mlp",
        method="kd",
        data="image-folder",
        out=tmp_path / "runs",
        overrides={
            **SMALL,
            "data.path": str(folder),
            "teacher.name": "timm/test_vit",
            "teacher.weights": file,
        },
    )
    assert found.teachers[0].test.accuracy == pytest.approx(expected.item(), abs=1e-9)
    said = json.loads((tmp_path / "runs" / found.name / "environment.json").read_text())["sees"]
    assert said["network"]["input_shape"] == [3, 24, 24]
    assert said["teachers"][0]["input_shape"] == [3, 160, 160]
    assert said["teachers"][0]["interpolation"] == "bicubic"


@pytest.mark.parametrize("resize", [40, (32, 32)])
def test_a_factory_says_what_its_network_sees(resize, folder, tmp_path):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.Flatten(), nn.Linear(400, 3))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "mine.py").write_text(FACTORY.format(resize=resize, more=""))

    def transform(picture):
        sides = resize if isinstance(resize, tuple) else None
        high, wide = picture.height, picture.width
        short = min(high, wide)
        new = sides or (int(resize * high / short), int(resize * wide / short))
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        x = nn.functional.interpolate(
            x[None].float(), new, mode="bilinear", antialias=True, align_corners=False
        )[0]
        top, left = (round((side - 32) / 2.0) for side in x.shape[1:])
        x = x[:, top : top + 32, left : left + 32] / 255
        mean, std = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
        return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    labels = torch.arange(3).repeat_interleave(6)
    expected = (alone(net, transform, folder).argmax(1) == labels).double().mean()
    (teacher,) = distill(
        student="mlp",
        method="kd",
        data="image-folder",
        out=tmp_path / "runs",
        overrides={**SMALL, "data.path": str(folder), "teacher.name": f"{tmp_path}/mine.py:net"},
    ).teachers
    assert teacher.test.accuracy == pytest.approx(expected.item(), abs=1e-9)


def test_a_student_of_another_size_is_measured_predicted_and_taught_from_as_in_its_run(
    folder, tmp_path
):
    given = {"data.path": str(folder), "data.size": 32, "train.epochs": 2, "report.html": False}
    teacher = train_teacher(
        model="mlp",
        data="image-folder",
        out=tmp_path / "runs",
        overrides={**given, "model.hidden": [8], "model.size": 16},
    )
    # one key says what the student sees of the same picture
    student = distill(
        teacher=teacher.checkpoint,
        student="mlp",
        method="kd",
        out=tmp_path / "runs",
        overrides={**given, "student.hidden": [8], "student.size": 12},
    )
    assert student.teachers[0].test.accuracy == teacher.test.accuracy
    for run in (teacher, student):
        (again,) = evaluate([run.checkpoint]).evaluations
        assert again.measures.accuracy == run.test.accuracy
        assert again.measures.nll == pytest.approx(run.test.nll, rel=1e-6)
    (beside,) = evaluate([student.checkpoint], latency=True).evaluations[0].teacher_costs.values()
    assert beside.macs == student.teachers[0].cost.macs == teacher.cost.macs


def test_a_network_of_another_size_than_its_data_goes_into_eight_bits(folder, tmp_path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    sizes = {"data.path": str(folder), "data.size": 32, "model.size": 16}
    network = train_teacher(
        model="mlp",
        data="image-folder",
        out=tmp_path / "runs",
        overrides={**sizes, "model.hidden": [8], "train.epochs": 1, "report.html": False},
    )
    found = export(
        network.checkpoint, format="onnx", out=tmp_path / "m.onnx", int8=True, max_drop=100
    ).int8
    assert (found.calibration, found.tested) == (12, 18)
    assert found.accuracy == pytest.approx(network.test.accuracy, abs=1e-9)


def test_stored_answers_are_those_of_the_teacher_s_own_pixels(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    given = {"data.path": str(folder), "data.augment.crop": 2, "report.html": False}
    shared = {"data": "image-folder", "out": tmp_path / "runs"}
    teacher = train_teacher(
        model="mlp",
        overrides={**given, "data.size": 16, "model.hidden": [8], "train.epochs": 2},
        **shared,
    )

    def taught(cache, epochs=2):
        return distill(
            teacher=teacher.checkpoint,
            student="mlp",
            method="kd",
            overrides={
                **given,
                "data.size": 24,
                "student.hidden": [8],
                "train.epochs": epochs,
                "teacher.cache": cache,
            },
            **shared,
        )

    live, stored, again = taught("off"), taught("exact"), taught("exact")
    assert stored.test.nll == pytest.approx(live.test.nll, rel=1e-2)  # float16
    assert again.test.nll == stored.test.nll


def test_a_recipe_says_otherwise_and_a_size_alone_keeps_the_part_that_is_seen():
    own = Sight(3, (224, 224), 256, "bicubic", "pillow", (0.5,) * 3, (0.5,) * 3)
    assert Sight(size=(112, 112)).over(own).resize == 128
    assert Sight(size=(112, 112), resize=112).over(own).resize == 112
    data = Preprocessing((1, 8, 8), 8, (0.3,), (0.2,))
    assert Sight(channels=3).on(data) == Preprocessing((3, 8, 8), 8, (0.3,) * 3, (0.2,) * 3)


@pytest.mark.usefixtures("published")
def test_grey_pictures_are_repeated_and_it_is_said(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (12, 9, 9)).astype(np.uint8)
    y = np.arange(12) % 3
    np.savez(tmp_path / "grey.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    notes = []
    distill(
        student="mlp",
        method="kd",
        data="npz",
        out=tmp_path / "runs",
        overrides={
            "data.path": str(tmp_path / "grey.npz"),
            "student.hidden": [8],
            "train.epochs": 1,
            "report.html": False,
            "teacher.name": "torchvision/resnet18",
            "teacher.weights": "IMAGENET1K_V1",
            "teacher.size": 32,
        },
        listeners=[lambda event: notes.extend(getattr(event, "notes", ()))],
    )
    (note,) = (note for note in notes if "its own pixels" in note)
    assert "grey repeated into three channels" in note
    assert "32×32 of the shorter side at 37, bilinear" in note


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("network.input_interpolation = 'best'", "input_interpolation: input should be 'nearest'"),
        ("network.input_resize = 10**9", "input_resize is 1000000000"),
        ("network.input_size = (0, 3)", "an input_size that is not a height and a width"),
    ],
)
def test_what_cannot_be_is_said_before_training(more, said, folder, tmp_path):
    save_file(
        nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.Flatten(), nn.Linear(400, 3)).state_dict(),
        tmp_path / "w.safetensors",
    )
    (tmp_path / "mine.py").write_text(FACTORY.format(resize=32, more=more))
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        distill(
            student="mlp",
            method="kd",
            data="image-folder",
            out=tmp_path / "runs",
            overrides={
                **SMALL,
                "data.path": str(folder),
                "teacher.name": f"{tmp_path}/mine.py:net",
            },
        )


def test_a_teacher_of_grey_pictures_does_not_take_colours(folder, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (12, 9, 9)).astype(np.uint8)
    y = np.arange(12) % 3
    names = np.array(["class0", "class1", "class2"])
    np.savez(tmp_path / "grey.npz", x_train=x, y_train=y, x_test=x, y_test=y, classes=names)
    teacher = train_teacher(
        model="mlp",
        data="npz",
        out=tmp_path / "runs",
        overrides={
            "data.path": str(tmp_path / "grey.npz"),
            "model.hidden": [8],
            "train.epochs": 1,
            "report.html": False,
        },
    )
    with pytest.raises(Incompatible, match="takes images of 1×9×9, image-folder has 3×24×24"):
        distill(
            teacher=teacher.checkpoint,
            student="mlp",
            data="image-folder",
            out=tmp_path / "runs",
            overrides={**SMALL, "data.path": str(folder)},
        )
