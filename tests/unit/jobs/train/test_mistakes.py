"""A run keeps small pictures of what its network gets wrong, and its page shows them without the
data.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdcli.core import random
from kdcli.data.augment import Augmentation
from kdcli.data.open_feed import make_feed
from kdcli.data.source import ImageArrays
from kdcli.jobs import distill, train_teacher
from kdcli.jobs.train.mistakes import find_mistakes, small
from kdcli.report.page.build import build
from kdcli.results.mistakes import MOST_CHARACTERS
from kdcli.runs.read import Run


def pixels(*shape: int) -> torch.Tensor:
    count = torch.Size(shape).numel()
    stream = random.key(0, "pictures")
    return random.integers(stream, torch.arange(count), 256).to(torch.uint8).view(shape)


def decoded(image: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2])))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (3, 64, 64), (3, 300, 200), (1, 2, 96)])
def test_a_small_picture_is_the_picture(shape):
    picture = pixels(*shape)
    image, width, height = small(picture)
    assert len(image) < MOST_CHARACTERS
    found = decoded(image)
    assert found.size == (width, height)
    assert max(width, height) <= 96
    if max(shape) <= 28:  # to the last pixel
        levels = torch.tensor(list(found.convert("RGB").tobytes())).view(height, width, 3)
        assert torch.equal(levels.permute(2, 0, 1), picture.expand(3, -1, -1).long())
    elif max(shape) == 300:
        assert (width, height) == (64, 96)


def test_pictures_that_are_none_are_left_out():
    vectors = ImageArrays(
        torch.zeros(4, 1, 1, 5), torch.arange(4) % 2, torch.zeros(4, 1, 1, 5), torch.arange(4) % 2,
        ("a", "b"), (0.0,), (1.0,),
    )  # fmt: skip
    feed = make_feed(
        vectors, name="v", augment=Augmentation(), batch_size=2, eval_batch_size=2, seed=0,
        val_fraction=0.0, train_limit=None, device="cpu", workers=0,
    )  # fmt: skip
    wrong = torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 2)
    assert find_mistakes(feed, wrong, None, torch.arange(4) % 2, 5) is None


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> Path:
    """A student of a folder of pictures whose classes nothing can tell apart, and its teacher."""
    out = tmp_path_factory.mktemp("runs")
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (out / "pets" / part / name).mkdir(parents=True)
            for number in range(6):
                picture = pixels(40, 40, 3).roll(number, 0).numpy()
                Image.fromarray(picture).save(out / "pets" / part / name / f"{number}.png")
    shown = {"train.epochs": 1, "report.html": True, "report.explain": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcli.report.page.build.figures_of_run", lambda _: ())
        data = {"data.path": str(out / "pets"), "data.size": 40, "train.batch_size": 4}
        hidden = {"model.hidden": [4], **data, **shown}
        train_teacher(model="mlp", data="image-folder", name="t", out=out, overrides=hidden)
        hidden = {"student.hidden": [4], **data, **shown}
        distill(
            teacher=str(out / "t"), student="mlp", method="kd", name="s", out=out, overrides=hidden
        )
        hidden |= {"report.pictures": 0}
        distill(
            teacher=str(out / "t"), student="mlp", method="kd", name="n", out=out, overrides=hidden
        )
    shutil.rmtree(out / "pets")
    return out


def test_the_page_shows_them_when_the_data_are_gone(learnt, monkeypatch):
    monkeypatch.setattr("kdcli.report.page.build.figures_of_run", lambda _: ())
    run = Run.load(learnt / "s")
    assert run.damage == ()
    found = run.mistakes
    assert found.n == run.summary.test.n == 12
    wrong = sum(kind.n for kind in found.kinds if kind.kind != "surest")
    assert wrong == found.n - round(run.summary.test.accuracy * 12) > 0
    one = found.kinds[-1].shown[0]
    assert one.file.startswith(f"test/{one.label}/")
    assert one.own.name != one.label
    assert decoded(one.image).size == (40, 40)
    build(learnt / "s")
    page = (learnt / "s" / "report.html").read_text()
    assert one.image in page
    assert f'title="{one.file}"' in page


def test_a_network_without_a_teacher_has_its_mistakes_too(learnt):
    kinds = {kind.kind for kind in Run.load(learnt / "t").mistakes.kinds}
    assert kinds == {"wrong", "surest"}
    assert "The network is wrong" in (learnt / "t" / "report.html").read_text()


def test_pictures_stay_where_they_are_if_asked_to(learnt):
    assert not (learnt / "n" / "mistakes.json").exists()
    page = (learnt / "n" / "report.html").read_text()
    assert "data:image" not in page
    assert "gets wrong" not in page


def test_damage_to_them_is_named_and_they_are_left_out(learnt, tmp_path):
    run = shutil.copytree(learnt / "s", tmp_path / "s")
    path = run / "mistakes.json"
    path.write_text(path.read_text().replace("dog", "cow", 1))
    (sentence,) = Run.load(run).damage
    assert sentence.endswith(
        "mistakes.json is damaged: it is not what manifest.json says: the pictures are left out"
    )
    assert Run.load(run).mistakes is None


@pytest.mark.parametrize(
    "image",
    [
        "javascript:alert(1)",
        "data:text/html;base64,PHNjcmlwdD4=",
        'data:image/png;base64,AAAA" onload="x',
        "https://example.org/a.png",
        "data:image/png;base64," + "A" * MOST_CHARACTERS,
    ],
)
def test_nothing_but_a_small_picture_comes_into_a_page(learnt, tmp_path, image):
    run = shutil.copytree(learnt / "s", tmp_path / "s")
    (run / "manifest.json").unlink()  # somebody who changes the one can change the other
    path = run / "mistakes.json"
    content = json.loads(path.read_text())
    content["kinds"][-1]["shown"][0]["image"] = image
    path.write_text(json.dumps(content))
    (sentence,) = Run.load(run).damage
    assert "image is no small PNG or JPEG" in sentence


def test_pictures_that_cannot_be_had_do_not_cost_the_run(learnt, tmp_path, monkeypatch):
    def gone(*_):
        raise OSError("somebody removed the folder")

    monkeypatch.setattr("kdcli.jobs.train.mistakes.find_mistakes", gone)
    monkeypatch.setattr("kdcli.report.page.build.figures_of_run", lambda _: ())
    found = train_teacher(
        model="mlp", data="digits", out=tmp_path,
        overrides={"train.epochs": 1, "data.train_limit": 60, "report.explain": False},
    )  # fmt: skip
    assert found.warnings[0] == (
        "pictures are left out of the report: OSError: somebody removed the folder"
    )
