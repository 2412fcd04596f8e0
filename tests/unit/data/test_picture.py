"""A picture is what a viewer shows, whatever file holds it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from kdcli.data import picture

SCENE = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
GREY = SCENE[..., 0]
ALPHA = np.linspace(0, 255, 77).reshape(7, 11).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (7, 11), dtype=np.uint16)


def read(path: Path, background: picture.Colour = picture.WHITE) -> np.ndarray:
    """The pixels [h,w,3] of a file."""
    with picture.opened(path) as image:
        picture.kind_of(image)
    with picture.opened(path) as image:
        return picture.shown(image, background).permute(1, 2, 0).numpy()


def saved(folder: Path, name: str, image: Image.Image, **how: Any) -> Path:
    image.save(folder / name, **how)
    return folder / name


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, 2)


def over(values: np.ndarray, background: int = 255) -> np.ndarray:
    """Grey values or colours under ALPHA, over a grey background, to be met but for rounding."""
    share = ALPHA[..., None] / 255
    return values * share + background * (1 - share)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif", "x.ppm"])
def test_colours_come_as_they_are(tmp_path: Path, name: str) -> None:
    assert (read(saved(tmp_path, name, Image.fromarray(SCENE))) == SCENE).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
def test_a_turned_picture_is_turned_back(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, name, Image.fromarray(SCENE), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    assert expected.size == ((11, 7) if orientation < 5 else (7, 11))
    assert (read(path) == np.asarray(expected)).all()


# kd itself silences Pillow, and pytest puts its own filters in place of that
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0damaged", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"]
)
def test_damaged_exif_data_turn_nothing(tmp_path: Path, exif: bytes) -> None:
    plain = read(saved(tmp_path, "plain.jpg", Image.fromarray(SCENE)))
    assert (read(saved(tmp_path, "x.jpg", Image.fromarray(SCENE), exif=exif)) == plain).all()


def test_palettes_grey_and_single_bits(tmp_path: Path) -> None:
    image = Image.fromarray(SCENE)
    for name, mode in (
        ("p.png", "P"),
        ("p.gif", "P"),
        ("1.png", "1"),
        ("1.tif", "1"),
        ("l.png", "L"),
    ):
        stored = image.convert(mode)
        assert (read(saved(tmp_path, name, stored)) == np.asarray(stored.convert("RGB"))).all()


@pytest.mark.parametrize("background", [255, 0, 100])
def test_transparency_shows_the_background(tmp_path: Path, background: int) -> None:
    colour = (background,) * 3
    for name in ("x.png", "x.webp", "x.tif"):
        image = Image.fromarray(np.dstack([SCENE, ALPHA]))
        path = saved(
            tmp_path, name, image, **({"lossless": True, "exact": True} if "webp" in name else {})
        )
        assert np.abs(read(path, colour) - over(SCENE, background)).max() <= 1
    path = saved(tmp_path, "la.png", Image.fromarray(np.dstack([GREY, ALPHA])))
    assert np.abs(read(path, colour) - over(grey(GREY), background)).max() <= 1


def test_a_transparent_colour_shows_the_background(tmp_path: Path) -> None:
    clear = (SCENE[2, 3] == SCENE).all(2)[..., None]
    expected = np.where(clear, (1, 2, 3), SCENE)
    path = saved(
        tmp_path, "rgb.png", Image.fromarray(SCENE), transparency=tuple(SCENE[2, 3].tolist())
    )
    assert (read(path, (1, 2, 3)) == expected).all()
    stored = Image.fromarray(SCENE).quantize(16)
    indices = np.asarray(stored)[..., None]
    for name in ("p.png", "p.gif"):
        path = saved(tmp_path, name, stored, transparency=5)
        expected = np.where(indices == 5, (1, 2, 3), np.asarray(stored.convert("RGB")))
        assert (read(path, (1, 2, 3)) == expected).all()
    path = saved(tmp_path, "half.png", stored, transparency=bytes(range(0, 160, 10)))
    share = indices * 10 / 255
    expected = np.asarray(stored.convert("RGB")) * share + 255 * (1 - share)
    assert np.abs(read(path) - expected).max() <= 1


def test_cmyk_is_shown_in_rgb(tmp_path: Path) -> None:
    stored = Image.fromarray(SCENE).convert("CMYK")
    assert (read(saved(tmp_path, "x.tif", stored)) == np.asarray(stored.convert("RGB"))).all()
    smooth = Image.linear_gradient("L").convert("CMYK")
    shown = read(saved(tmp_path, "x.jpg", smooth, quality=95))
    assert np.abs(shown.astype(int) - np.asarray(smooth.convert("RGB"))).max() <= 4


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_of_16_bits_the_upper_8_are_kept(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "x.pgm":
        path.write_bytes(b"P5 11 7 65535\n" + DEEP.astype(">u2").tobytes())
    else:
        Image.fromarray(DEEP).save(path)
    assert (read(path) == grey((DEEP >> 8).astype(np.uint8))).all()
    with picture.opened(path) as image:
        assert picture.kind_of(image).deep


def test_a_transparent_shade_of_16_bits(tmp_path: Path) -> None:
    path = saved(tmp_path, "x.png", Image.fromarray(DEEP), transparency=int(DEEP[1, 1]))
    shown = read(path, (9, 9, 9))
    assert (shown == np.where((DEEP[1, 1] == DEEP)[..., None], 9, grey(DEEP >> 8))).all()


def test_floats_from_0_to_1_are_read_and_others_refused(tmp_path: Path) -> None:
    values = DEEP.astype(np.float32) / 65535
    path = saved(tmp_path, "x.tif", Image.fromarray(values))
    assert (read(path) == grey(np.rint(values * 255).astype(np.uint8))).all()
    for wrong, says in (
        (values * 200, "from .* to "),
        (values - 1, "from -"),
        (values * np.nan, "nan"),
    ):
        with pytest.raises(picture.CannotRead, match=says):
            read(saved(tmp_path, "wrong.tif", Image.fromarray(wrong)))


def test_what_has_no_one_reading_is_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path, "i.tif", Image.fromarray(DEEP.astype(np.int32)))
    with pytest.raises(picture.CannotRead, match="32-bit integers"):
        read(path)
    path = saved(tmp_path, "lab.tif", Image.new("LAB", (3, 3)))
    with pytest.raises(picture.CannotRead, match=r"\(LAB\)"):
        read(path)


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp", "x.tif"])
def test_the_first_of_several_frames(tmp_path: Path, name: str) -> None:
    first = Image.fromarray(SCENE).quantize(64)
    how: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", first.size)]}
    if name != "x.gif":
        first = first.convert("RGB")
    path = saved(tmp_path, name, first, **how, **({"lossless": True} if name == "x.webp" else {}))
    with picture.opened(path) as image:
        assert picture.kind_of(image).frames
    assert (read(path) == np.asarray(first.convert("RGB"))).all()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "x.png")
    with (
        pytest.raises(picture.CannotRead, match="no regular file"),
        picture.opened(tmp_path / "x.png"),
    ):
        pass


# ---- the other decoder ---------------------------------------------------------------------------


def jpeg(image: Image.Image, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **how)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PHOTO = Image.fromarray(
    np.random.default_rng(2).integers(0, 256, (9, 12, 3), dtype=np.uint8)
).resize((96, 72))


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        (jpeg(PHOTO, quality=95), True),
        (jpeg(PHOTO, quality=75, subsampling=0), True),
        (jpeg(PHOTO, quality=60, progressive=True), True),
        (jpeg(PHOTO.convert("L")), True),
        (jpeg(PHOTO, exif=turned()), False),
        (jpeg(PHOTO, keep_rgb=True), False),
        (jpeg(PHOTO.convert("CMYK")), False),
    ],
    ids=["420", "444", "progressive", "grey", "turned", "rgb", "cmyk"],
)
def test_torchvision_decodes_what_pillow_decodes(content: bytes, plain: bool) -> None:
    with Image.open(io.BytesIO(content)) as image:
        assert picture.is_plain_jpeg(image) == plain
        ours = picture.shown(image)
    if plain:
        theirs: Tensor = decode_jpeg(
            torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB
        )
        assert torch.equal(theirs, ours)
