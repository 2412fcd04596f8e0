"""JPEG files that the device decodes: the same batches but for a level or two, and the same
complaints. The device is the CPU here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from kdcli.core.types import Batch, Feed
from kdcli.data import decode
from kdcli.data import streamed as streamed_module
from kdcli.data.augment import Augmentation
from kdcli.data.source import ImageFolder
from kdcli.errors import BadData, UsageError
from kdcli.jobs import train_teacher
from kdcli.results.preprocessing import Preprocessing
from tests.unit.data.test_streamed import streamed

Make = Callable[..., Feed]
Same = Callable[[list[Batch], list[Batch]], bool]
CUT = Augmentation(resized_crop=True, flip=True)


@pytest.fixture
def photographs(folder: Path) -> ImageFolder:
    """The pictures of `folder`, those of one class as JPEG files, one of them grey; of odd
    sizes.
    """
    for number, path in enumerate(sorted(folder.glob("*/dog/*.png"))):
        picture = Image.open(path).resize((24 + number, 20)).convert("L" if number == 0 else "RGB")
        picture.save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    return streamed(folder, size=8, resize=12)


@pytest.mark.parametrize("augment", [Augmentation(), Augmentation(crop=2, flip=True), CUT])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_device_decodes_what_workers_decode(
    photographs: ImageFolder, feed: Make, augment: Augmentation, workers: int
) -> None:
    settings = {"batch_size": 5, "val_fraction": 0.2, "seed": 3}
    theirs, ours = (
        feed(photographs, augment, **settings),
        feed(photographs, augment, decode="device", workers=workers, **settings),
    )
    level = 1 / (255 * min(theirs.info.std))
    for one, other in zip(theirs.train(2), ours.train(2), strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.view, other.view)
        assert (one.x - other.x).abs().max() < 3 * level


def test_what_others_would_decode_otherwise_is_decoded_by_pillow(
    photographs: ImageFolder, feed: Make, same: Same
) -> None:
    """Of a turned picture and one in CMYK, the device gets pixels, not the file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for path, picture, how in zip(
        photographs.train[-2:],
        (Image.new("RGB", (30, 20), "red"), Image.new("CMYK", (30, 20), "teal")),
        ({"exif": exif}, {}),
        strict=True,
    ):
        picture.putpixel((3, 3), (0,) * len(picture.getbands()))
        picture.save(photographs.root / path, **how)
        assert decode.read(photographs, path).dim() == 3
    theirs, ours = (feed(photographs, decode=where) for where in ("workers", "device"))
    chosen = torch.tensor([10, 11]), torch.tensor([0, 0])
    assert same([theirs.view(*chosen)], [ours.view(*chosen)])


def test_what_is_measured_is_decoded_by_workers(
    photographs: ImageFolder, feed: Make, same: Same
) -> None:
    theirs, ours = (
        feed(photographs, CUT, val_fraction=0.2),
        feed(photographs, CUT, val_fraction=0.2, decode="device"),
    )
    with patch.object(streamed_module, "decode_on", side_effect=AssertionError):
        for name in ("val", "test"):
            assert same(list(theirs.split(name)), list(ours.split(name)))


def test_a_file_that_the_device_cannot_decode_is_decoded_on_the_cpu(
    photographs: ImageFolder, feed: Make
) -> None:
    usual, refused = decode._decode_jpegs, []

    def picky(files: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        if any(len(file) == len(odd) for file in files):
            refused.append(len(files))
            raise RuntimeError("unsupported colour space")
        return usual(files, device)

    odd = next(
        file for path in photographs.train if (file := decode.read(photographs, path)).dim() == 1
    )
    with patch.object(decode, "_decode_jpegs", picky):
        batches = list(feed(photographs, CUT, decode="device", batch_size=12).train(1))
    assert refused == [6, 1]
    assert sum(len(batch.y) for batch in batches) == 12


@pytest.mark.parametrize(
    "harm", [lambda path: path.write_bytes(path.read_bytes()[:40]), lambda path: path.unlink()]
)
def test_a_damaged_file_is_named(
    photographs: ImageFolder, feed: Make, harm: Callable[[Path], object]
) -> None:
    harmed = next(path for path in photographs.train if path.endswith(".jpg"))
    made = feed(photographs, CUT, decode="device")
    harm(photographs.root / harmed)
    with pytest.raises(BadData, match=os.path.basename(harmed)):  # noqa: PTH119  a path as text
        list(made.train(1))


def test_only_a_gpu_may_be_asked_to_decode(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="on a cpu it is worker processes that decode"):
        train_teacher("quickstart-teacher", overrides={"runtime.decode": "device"}, out=tmp_path)


def test_a_torchvision_that_cannot_decode_there_says_so() -> None:
    with (
        patch.object(
            decode,
            "_decode_jpegs",
            side_effect=RuntimeError("not compiled with nvJPEG support\nat line 5"),
        ),
        pytest.raises(
            UsageError, match=r"does not decode on cuda: not compiled with nvJPEG support$"
        ),
    ):
        decode.check_decoder(torch.device("cuda"))


@pytest.mark.gpu
def test_a_gpu_decodes_what_workers_decode(photographs: ImageFolder, feed: Make) -> None:
    decode.check_decoder(torch.device("cuda"))
    theirs, ours = (
        feed(photographs, CUT, batch_size=12),
        feed(photographs, CUT, batch_size=12, decode="device", device="cuda"),
    )
    level = 1 / (255 * min(theirs.info.std))
    for one, other in zip(theirs.train(1), ours.train(1), strict=True):
        assert (one.x - other.x.cpu()).abs().mean() < 3 * level


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_random_part_is_what_pillow_makes_of_it_but_for_rounding(interpolation, channels):
    how = Preprocessing((channels, 20, 20), 20, (0.5,), (0.5,), interpolation=interpolation)
    planes = torch.randint(0, 256, (channels, 47, 61), dtype=torch.uint8)
    side_by_side = planes.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    cut = Augmentation(resized_crop=True, scale=(0.2, 1.0))
    for change in range(8):
        top, left, height, width = cut.box(change, 47, 61)
        part = planes[:, top : top + height, left : left + width]
        expected = decode.resized(part, (20, 20), how)
        found = decode.finish(how, cut, planes, change)
        assert (found.int() - expected.int()).abs().max() <= 1
        # however the pixels lie in memory
        assert torch.equal(decode.finish(how, cut, side_by_side, change), found)
