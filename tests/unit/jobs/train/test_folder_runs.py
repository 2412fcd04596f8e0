"""Runs on image folders: their own validation part, and a bad file that is mended in mid-run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kdcli.errors import BadData, Incompatible, UsageError
from kdcli.jobs import resume, train_teacher
from kdcli.jobs.events import Prepared
from kdcli.results.run import RunResult


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for part in ("train", "val", "test"):
        for shade, name in ((40, "cat"), (200, "dog")):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for number in range(4):
                path = tmp_path / "pets" / part / name / f"{number}.png"
                Image.new("RGB", (8, 8), (shade + number,) * 3).save(path)
    return tmp_path / "pets"


def train(pets: Path, name: str = "r", **changes: Any) -> RunResult | None:
    overrides = {
        "data.path": str(pets),
        "data.size": 8,
        "model.hidden": [4],
        "train.batch_size": 4,
        "train.epochs": 1,
        "report.html": False,
        **changes,
    }
    return train_teacher(
        model="mlp", data="image-folder", name=name, out=pets.parent, overrides=overrides
    )


def test_the_best_epoch_is_chosen_on_the_folders_own_part(pets: Path) -> None:
    result = train(pets, **{"train.select": "best"})
    assert result is not None
    assert result.test.selected == "best"
    for path in (pets / "val").rglob("*.png"):
        path.rename(pets / "train" / path.parent.name / f"v{path.name}")
    (pets / "val").rename(pets / "train" / ".val")
    with pytest.raises(UsageError, match="nothing is held out"):
        train(pets, "again", **{"train.select": "best"})
    with pytest.raises(UsageError, match=r"a temperature is fitted .* nothing is held out"):
        train(pets, "again", **{"train.calibrate": "on"})


def test_a_temperature_is_fitted_on_the_folders_own_part(pets: Path) -> None:
    result = train(pets, **{"train.calibrate": "on"})
    assert result is not None
    assert result.calibration is not None
    assert result.calibration.n == 8


def test_a_run_says_how_it_goes_on_after_a_bad_file(pets: Path) -> None:
    bad, good = pets / "train" / "dog" / "2.png", pets / "train" / "dog" / "1.png"
    run = pets.parent / "r"
    bad.write_bytes(bad.read_bytes()[:45])
    with pytest.raises(BadData, match=str(bad)) as caught:
        train(pets)
    assert f"kd resume {run} goes on" in (caught.value.hint or "")
    bad.unlink()
    with pytest.raises(Incompatible, match="began with 8 training images, and there are 7") as told:
        resume(run)
    assert f"kd train-teacher {run}/recipe.toml" in (told.value.hint or "")
    bad.write_bytes(good.read_bytes())
    (pets / "test" / "cat" / "0.png").unlink()
    heard: list[object] = []
    assert resume(run, listeners=[heard.append]).test.n == 7
    (prepared,) = [event for event in heard if isinstance(event, Prepared)]
    assert (
        "the run began with 8\N{NO-BREAK SPACE}test images, and there are 7 now" in prepared.notes
    )
