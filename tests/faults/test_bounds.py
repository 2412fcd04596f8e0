"""What data and options ask of a machine is bounded, and said before memory is asked for."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcli.cli.app import run as kd
from kdcli.cli.console import Environment
from kdcli.data.arrays import from_arrays
from kdcli.data.datasets import folder, synthetic
from kdcli.data.decode import decode, read
from kdcli.errors import BadData, UsageError
from kdcli.jobs import analyze_gap

PIXELS = np.zeros((6, 4, 4), np.uint8)


@pytest.mark.parametrize("label", [7, 10**12])
def test_a_label_beyond_all_samples_makes_no_classes(label):
    y = np.array([0, 1, 2, 0, 1, label])
    arrays = {"x_train": PIXELS, "y_train": y, "x_test": PIXELS[:3], "y_test": np.arange(3)}
    with pytest.raises(BadData, match=rf"y_train\[5\] is {label}, so that .* classes"):
        from_arrays(arrays, origin="x.npz")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"train": 10**9}, "would take 2,0"),
        ({"train": 10**7, "dim": 10_000}, "more than data.max_gb = 8"),
        ({"train": 10**9, "dim": 100_000, "max_gb": 1e6}, "of memory are free"),
        ({"classes": 10_000, "superclasses": 10, "dim": 100_000}, "more than data.max_gb"),
    ],
)
def test_synthetic_data_that_would_not_fit(tmp_path, asked, told):
    options = synthetic.Options(**asked)
    with pytest.raises(UsageError, match=told):
        synthetic.load("synthetic", options=options, root=tmp_path)


@pytest.mark.parametrize("resamples", [0, 10**9])
def test_resamples_are_bounded(resamples):
    with pytest.raises(UsageError, match="from 1 to 1,000,000 resamples"):
        analyze_gap("nothing", bootstrap=resamples)


def test_resamples_are_bounded_on_the_command_line():
    said = io.StringIO()
    code = kd(("analyze-gap", "--bootstrap", "1000000000"), Environment(io.StringIO(), said, {}))
    assert code == 2
    assert "--bootstrap" in said.getvalue()


def vast(path: Path, side: int) -> None:
    """A PNG of side x side black pixels: a header, and rows that compress to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.fixture
def pictures(tmp_path) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (20, 10)).save(tmp_path / part / name / "0.jpg")
    return tmp_path


def opened(top: Path, **more: object):
    return folder.load(
        "image-folder", options=folder.Options(path=str(top), size=8, **more), root=top
    )


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_vast_picture_is_refused_before_it_is_decoded(pictures, side):
    vast(pictures / "train" / "cat" / "1.png", side)
    with pytest.raises(BadData, match=f"{side:,} x {side:,} pixels, more than data.max_pixels"):
        decode(opened(pictures), "train/cat/1.png")


def test_the_bound_on_pixels_is_the_users(pictures):
    assert decode(opened(pictures, max_pixels=200), "train/cat/0.jpg").shape == (3, 10, 20)
    for reader in (decode, read):
        with pytest.raises(BadData, match=r"20 x 10 pixels, more than data.max_pixels = 199"):
            reader(replace(opened(pictures), max_pixels=199), "train/cat/0.jpg")
    with pytest.raises(BadData, match=r"more than data.max_pixels = 199"):
        opened(pictures, max_pixels=199)
