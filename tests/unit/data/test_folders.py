"""Image folders as people have them: parts, classes, what others left behind, and what is wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kdcli.core.types import Feed
from kdcli.data.datasets.folder import Options, examine, load
from kdcli.data.source import ImageFolder
from kdcli.errors import BadData, KdError, NotFound, UsageError
from tests.unit.data.conftest import pixels

Make = Callable[..., Feed]


def opened(path: Path, **options: Any) -> ImageFolder:
    found = load("image-folder", options=Options(path=str(path), size=8, **options), root=path)
    assert isinstance(found, ImageFolder)
    return found


def picture(path: Path, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(str(path.name), side, side, 3).numpy()).save(path)


def val(folder: Path, name: str = "val", count: int = 3) -> None:
    for label in ("cat", "dog"):
        for number in range(count):
            picture(folder / name / label / f"v{number}.png")


# ---- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
@pytest.mark.parametrize("resident", [False, True])
def test_val_beside_test_is_held_out(folder: Path, feed: Make, name: str, resident: bool) -> None:
    val(folder, name)
    source = load(
        "image-folder", options=Options(path=str(folder), size=8, resident=resident), root=folder
    )
    made = feed(source)
    assert [made.size(part) for part in ("train", "val", "test")] == [12, 6, 8]
    assert torch.cat([batch.y for batch in made.split("val")]).tolist() == [0] * 3 + [1] * 3
    alone = feed(opened(folder))
    held = torch.cat([batch.x for batch in alone.split("val")])
    trained = torch.cat([batch.x for batch in alone.train(1)])
    assert not any(torch.equal(one, other) for one in held for other in trained)
    with pytest.raises(UsageError, match="a validation part of their own"):
        feed(source, val_fraction=0.1)


def test_a_held_out_part_leaves_limits_and_rankings_to_training(folder: Path, feed: Make) -> None:
    val(folder)
    made = feed(opened(folder), train_limit=4)
    assert (made.size("train"), made.size("val")) == (4, 6)


def test_two_folders_for_one_part_are_refused(folder: Path) -> None:
    val(folder)
    val(folder, "validation")
    with pytest.raises(BadData, match="has val/ and validation/"):
        opened(folder)


def test_the_fingerprint_tells_a_held_out_part_from_training(folder: Path) -> None:
    before = opened(folder).fingerprint
    val(folder)
    with_val = opened(folder).fingerprint
    for path in (folder / "val").rglob("*.png"):
        path.rename(folder / "train" / path.parent.name / path.name)
    shutil.rmtree(folder / "val")
    assert len({before, with_val, opened(folder).fingerprint}) == 3


def flat(folder: Path, count: int = 10) -> Path:
    for name in ("cat", "dog", "train"):  # which may be a class, too
        for number in range(count):
            picture(folder / "flat" / name / f"{number}.png")
    return folder / "flat"


def test_class_folders_are_split_by_a_key(tmp_path: Path) -> None:
    top = flat(tmp_path)
    with pytest.raises(
        NotFound, match=r"no folder test/ or val/, and data.test_fraction is not set"
    ):
        opened(top)
    (top / "cat" / "0.png").write_bytes(b"no picture")
    kinds = [problem.kind for problem in examine(Options(path=str(top), size=8)).problems]
    assert kinds == ["part", "file"]
    picture(top / "cat" / "0.png")
    source = opened(top, test_fraction=0.3)
    assert source.class_names == ("cat", "dog", "train")
    assert source.y_test.bincount().tolist() == [3, 3, 3]
    assert source.y_train.bincount().tolist() == [7, 7, 7]
    assert not set(source.test) & set(source.train)
    assert "the test part is 0.3 of each class" in source.notes[0]
    assert opened(top, test_fraction=0.3).test == source.test
    more = set(opened(top, test_fraction=0.5).test)
    assert set(source.test) < more


def test_another_seed_draws_another_test_part(tmp_path: Path) -> None:
    top = flat(tmp_path)
    of_names = opened(top, test_fraction=0.3)
    parts = [opened(top, test_fraction=0.3, test_seed=seed) for seed in (0, 1, 2)]
    assert parts[0].test == of_names.test
    assert len({part.test for part in parts}) == 3
    for part in parts:
        assert part.y_test.bincount().tolist() == [3, 3, 3]
        assert sorted((*part.train, *part.test)) == sorted((*of_names.train, *of_names.test))
    assert "drawn by the files' names and seed 2 (data.test_fraction" in parts[2].notes[0]
    assert opened(top, test_fraction=0.3, test_seed=2).fingerprint == parts[2].fingerprint
    with pytest.raises(UsageError, match=r"data\.test_seed says which share .* says none"):
        opened(top, test_seed=1)


def test_a_file_that_goes_moves_at_most_one_other(tmp_path: Path) -> None:
    top = flat(tmp_path)
    before = opened(top, test_fraction=0.3)
    gone = next(path for path in before.train if path.startswith("cat"))
    (top / gone).unlink()
    assert opened(top, test_fraction=0.3).test == before.test
    gone = next(path for path in before.test if path.startswith("dog"))
    (top / gone).unlink()
    after = set(opened(top, test_fraction=0.3).test)
    assert len(set(before.test) - after) == 1


def test_train_without_test_is_split_too_and_a_test_part_is_not_drawn_twice(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.test_fraction is set, and .* has a folder test/"):
        opened(folder, test_fraction=0.5)
    with pytest.raises(UsageError, match=r"data\.test_seed is set, and .* has a folder test/"):
        opened(folder, test_seed=1)
    shutil.rmtree(folder / "test")
    source = opened(folder, test_fraction=0.5)
    assert (len(source.train), len(source.test), source.held) == (6, 6, 0)
    val(folder)
    source = opened(folder, test_fraction=0.5)
    assert (len(source.train), len(source.test), source.held) == (12, 6, 6)


# ---- what is skipped, and what is not read -------------------------------------------------------


def test_what_other_systems_leave_behind_changes_nothing_and_is_counted(folder: Path) -> None:
    before = opened(folder)
    for name in (".DS_Store", "train/cat/._0.png", "train/cat/Thumbs.db", "test/dog/desktop.ini"):
        (folder / name).write_bytes(b"left behind")
    picture(folder / "train" / "__MACOSX" / "cat" / "0.png")
    picture(folder / "train" / ".ipynb_checkpoints" / "0.png")
    after = opened(folder)
    assert (after.class_names, after.train, after.test) == (
        before.class_names,
        before.train,
        before.test,
    )
    assert after.fingerprint == before.fingerprint
    assert "skipped 6 hidden or left behind" in after.notes[0]


def test_formats_that_are_not_read_are_named_with_their_number(folder: Path) -> None:
    for name in ("a.heic", "b.HEIC", "c.avif", "labels.csv"):
        (folder / "train" / "cat" / name).write_bytes(b"?")
    notes = " / ".join(opened(folder).notes)
    assert "formats that are not read: 2 .heic, 1 .avif" in notes
    assert "no pictures: 1 .csv" in notes


def test_classes_may_have_folders_of_their_own_and_links_that_go_round(folder: Path) -> None:
    picture(folder / "train" / "cat" / "old" / "9.JPG")
    (folder / "train" / "cat" / "loop").symlink_to(folder / "train" / "cat")
    source = opened(folder)
    assert source.train[6] == "train/cat/old/9.JPG"
    assert len(source.train) == 13


# ---- before training -----------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_bad_file_to_measure_on_is_found_at_the_start(folder: Path, part: str) -> None:
    val(folder)
    culprit = next((folder / part / "dog").iterdir())
    Image.linear_gradient("L").save(culprit)
    whole = culprit.read_bytes()
    for content in (b"no picture", whole[: len(whole) // 2]):
        culprit.write_bytes(content)
        with pytest.raises(BadData, match=f"{culprit} is not an image"):
            opened(folder)
    culprit.write_bytes(whole + b"appended" * 1000)  # which is decoded, to be sure
    opened(folder)


def test_how_files_are_read_is_said_once(folder: Path) -> None:
    deep = torch.randint(0, 65536, (9, 9), dtype=torch.int32).numpy().astype("uint16")
    for number in (0, 1):
        Image.fromarray(deep).save(folder / "test" / "cat" / f"deep{number}.png")
    first = Image.new("RGB", (9, 9))
    first.save(
        folder / "test" / "dog" / "moves.gif",
        save_all=True,
        append_images=[Image.new("RGB", (9, 9), "red")],
    )
    assert opened(folder).notes == (
        "test/cat/deep0.png and 1 more: 16 bits a channel: the upper 8 are used",
        "test/dog/moves.gif: several frames or pages: the first is used",
    )


# ---- all that is wrong, at once ------------------------------------------------------------------


def messy(folder: Path) -> None:
    (folder / "train" / "cat" / "0.png").write_bytes(b"no picture")
    cut = folder / "train" / "dog" / "1.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    (folder / "test" / "cat" / "a.heic").write_bytes(b"?")
    os.mkfifo(folder / "test" / "cat" / "pipe.png")
    picture(folder / "train" / "fish" / "0.png")
    for part in ("train", "test"):
        (folder / part / "empty").mkdir()
        (folder / part / "loose.png").write_bytes((folder / "test" / "dog" / "0.png").read_bytes())
    (folder / "unlabelled").mkdir()


def test_all_problems_of_a_folder_come_at_once(folder: Path) -> None:
    messy(folder)
    report = examine(Options(path=str(folder), size=8))
    told = [
        (problem.kind, problem.message.replace(f"{folder}/", "")) for problem in report.problems
    ]
    assert [kind for kind, _ in told] == [
        "layout",
        "class",
        "class",
        "layout",
        "layout",
        "format",
        *["file"] * 3,
        "size",
    ]
    for words in (
        "class 'empty' has no picture",
        "class 'fish' has 1 picture in train/ and none in test/",
        "train holds 1 picture outside its class folders",
        "1 .heic",
        "train/cat/0.png is not an image",
        "train/dog/1.png is not an image, or is damaged",
        "test/cat/pipe.png is no regular file",
        "not read: unlabelled",
        "smaller than 8 pixels and are enlarged: 18 of 19",
    ):
        assert any(words in message for _, message in told), words
    with pytest.raises(
        BadData, match=r"class 'empty' .*\(and 1 more: kd check --data .* lists all\)"
    ):
        opened(folder)


def test_one_attempt_mends_a_messy_folder(folder: Path) -> None:
    """Each problem is mended by what its hint says; then nothing is wrong, and a run begins."""
    messy(folder)
    for problem in examine(Options(path=str(folder), size=8)).problems:
        if problem.kind == "file":
            Path(problem.file or "").unlink()  # "... or remove it"
    for part in ("train", "test"):
        shutil.rmtree(folder / part / "empty")
        (folder / part / "loose.png").unlink()
    shutil.rmtree(folder / "train" / "fish")
    shutil.rmtree(folder / "unlabelled")
    (folder / "test" / "cat" / "a.heic").unlink()
    for path in folder.rglob("*.png"):
        picture(path)
    report = examine(Options(path=str(folder), size=8))
    assert (report.problems, report.train, report.val, report.test) == ((), 10, 0, 8)
    assert len(opened(folder).train) == 10


@pytest.mark.parametrize(
    "options",
    [{"std": (0.2, -1, 0.2)}, {"mean": (0.5, float("nan"), 0.5)}, {"background": (0, 0, 256)}],
)
def test_statistics_and_colours_that_are_none_are_refused(
    folder: Path, options: dict[str, Any]
) -> None:
    with pytest.raises((KdError, ValueError)):
        opened(folder, **options)


def test_transparent_pictures_show_the_background_of_the_recipe(folder: Path, feed: Make) -> None:
    for path in (folder / "test").rglob("*.png"):
        Image.new("RGBA", (8, 8)).save(path)
    for background in ((255, 255, 255), (0, 51, 102)):
        batch = next(
            feed(opened(folder, background=background, mean=(0, 0, 0), std=(1, 1, 1))).split("test")
        )
        assert batch.x[0, :, 4, 4].mul(255).round().tolist() == list(background)
