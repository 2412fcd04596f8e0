"""Commands that read a checkpoint measure it on the data that they are told, and say which."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from kdcli.files import safetensors_metadata
from kdcli.jobs import train_teacher


def write(path, seed: int, n: int = 40) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (2 * n, 8, 8)).astype(np.uint8)
    labels = np.arange(2 * n) % 4
    np.savez(
        path,
        x_train=pixels[:n],
        y_train=labels[:n],
        x_test=pixels[n:],
        y_test=labels[n:],
    )


@pytest.fixture
def run(kd, tmp_path):
    """A network that was trained on own.npz."""
    write("own.npz", 0)
    options = {"train.epochs": 1, "report.html": False, "data.path": "own.npz"}
    found = train_teacher(
        model="mlp", data="npz", name="t", out=tmp_path / "runs", overrides=options
    )
    return found.run


def test_evaluate_measures_what_it_is_told_and_labels_it_so(kd, run, tmp_path):
    before = kd("evaluate", run, "--json").json["data"]["evaluations"][0]
    assert (before["source"], before["trained_on_them"]) == ("npz own.npz", True)

    (tmp_path / "own.npz").rename(tmp_path / "moved.npz")
    gone = kd("evaluate", run)
    assert (gone.code, "own.npz" in gone.err, "data.path" in gone.err) == (2, True, True)
    moved = kd("evaluate", run, "-s", "data.path=moved.npz", "--json").json["data"]["evaluations"]
    assert moved[0] == {**before, "source": "npz moved.npz"}

    write("other.npz", 1, n=80)
    answer = kd("evaluate", run, "-s", "data.path=other.npz")
    screen = answer.out + answer.err
    assert "test split · n = 80 · npz other.npz" in screen
    assert "was not trained on these data" in screen


def test_a_gap_and_its_page_say_what_was_measured(kd, run, tmp_path):
    write("other.npz", 1, n=20)
    command = ["analyze-gap", "-t", run, "--student", run, "-s", "data.path=other.npz"]
    answer = kd(*command, "--json", "--html", "gap.html", "--bootstrap", "5")
    report = answer.json["data"]
    assert (report["data"], report["source"], report["n"]) == ("npz", "npz other.npz", 20)
    assert report["data_options"] == {"path": "other.npz"}
    page = (tmp_path / "gap.html").read_text(encoding="utf-8")
    assert "npz other.npz" in page
    assert "data.path=&#34;other.npz&#34;" in page


def test_saved_logits_say_what_their_rows_and_columns_are(kd, tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for number, name in enumerate(("10", "2", "cat")):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for picture in range(count):
                pixels = np.full((8, 8, 3), 50 * number + picture, np.uint8)
                Image.fromarray(pixels).save(
                    tmp_path / "pictures" / split / name / f"{picture}.png"
                )
    for resident in (True, False):
        options = {
            "train.epochs": 1,
            "report.html": False,
            "data.path": "pictures",
            "data.size": 8,
            "data.resident": resident,
        }
        found = train_teacher(
            model="mlp", data="image-folder", out=tmp_path / "runs", overrides=options
        )
        for command in (["evaluate", found.run], ["analyze-gap", "-t", found.run]):
            assert kd(*command, "--save-logits", "l.safetensors").code == 0
            about = json.loads(safetensors_metadata(tmp_path / "l.safetensors")["logits"])
            assert about["class_names"] == ["10", "2", "cat"]
            assert (about["data"], about["split"]) == ("image-folder pictures", "test")
            targets = load_file(tmp_path / "l.safetensors")["targets"].tolist()
            named = [about["class_names"][target] for target in targets]
            assert [file.split("/")[-2] for file in about["files"]] == named


def test_a_users_function_is_measured_and_named(kd, run, tmp_path):
    (tmp_path / "up.py").write_text(
        "import numpy as np\n"
        "def f():\n"
        "    x, y = np.zeros((8, 8, 8), np.uint8), np.arange(8) % 4\n"
        "    return x, y, x, y\n"
    )
    found = kd("evaluate", run, "--data", "up.py:f", "--json").json["data"]["evaluations"][0]
    assert (found["source"], found["measures"]["n"]) == ("up.py:f", 8)


@pytest.mark.parametrize(
    "options",
    [
        ["--data", "npz", "-s", "data.path=missing.npz"],
        ["--data", "image-folder"],
        ["--data-dir", "somewhere"],
        ["-s", "optim.lr=1"],
        ["-s", "data.path"],
    ],
)
@pytest.mark.parametrize("command", [["evaluate"], ["analyze-gap", "-t"]])
def test_what_cannot_be_measured_is_a_wrong_invocation(kd, run, command, options):
    answer = kd(*command, run, *options)
    assert (answer.code, "should not happen" in answer.err) == (2, False)


def test_filling_the_cache_of_pictures_is_told_of_once(kd, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for picture in range(count):
                Image.fromarray(np.full((8, 8, 3), 20 * picture, np.uint8)).save(
                    folder / f"{picture}.png"
                )
    command = ("train-teacher", "--model", "mlp", "-d", "image-folder", "--epochs", "1")
    sets = ("data.path=pictures", "data.cache_pixels=1", "report.html=false")
    command = (*command, *(word for each in sets for word in ("-s", each)))
    first, second = kd(*command), kd(*command)
    assert (first.code, second.code) == (0, 0)
    assert "decoding pictures for the cache, 100 %" in first.err
    assert "decoding pictures" not in second.err
