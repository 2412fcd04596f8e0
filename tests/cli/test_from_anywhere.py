"""A run is used from any folder, and by others to whom it was copied."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from kdcli.errors import BadCheckpoint
from kdcli.jobs import resume, train_longer
from kdcli.jobs.build.networks import load_network
from kdcli.results.weights_header import read_header
from kdcli.trust import trusting
from tests.cli.test_strangers import call

OWN = '''\
"""Own network"""

from torch import nn


def net(num_classes):
    """A network"""
    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))
'''
QUICK = ("--epochs", "1", "-s", "report.html=false", "-s", "report.latency=false", "-q")


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 255 - shade, 90)).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """project/ with pictures, a network of one's own, and a run of both."""
    top = tmp_path_factory.mktemp("anywhere")
    project = top / "project"
    for part, count in (("train", 4), ("test", 2)):
        for shade, name in ((40, "cat"), (200, "dog")):
            for number in range(count):
                picture(project / "photos" / part / name / f"{number}.png", shade + number)
    (project / "nets").mkdir()
    (project / "nets/own.py").write_text(OWN, encoding="utf-8")
    (top / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        data = ("-d", "image-folder", "-s", "data.path=photos", "-s", "data.size=8")
        words = ("train-teacher", "--model", "nets/own.py:net", *data, "--name", "t", *QUICK)
        answer = call(*words, "--keep-state")
        assert answer.code == 0, answer.err
    return top


@pytest.fixture
def top(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, seen from a folder beside the project."""
    monkeypatch.chdir(made / "elsewhere")
    return made


def test_data_and_code_are_found_from_another_folder(top: Path) -> None:
    run = str(top / "project/runs/t")
    assert call("evaluate", run).code == 2
    answer = call("evaluate", run, "--trust", "--json", "-q")
    (evaluation,) = answer.json["data"]["evaluations"]
    assert evaluation["measures"]["n"] == 4
    assert evaluation["source"] == f"image-folder {top / 'project/photos'}"
    assert evaluation["trained_on_them"]
    words = ("distill", "-m", "kd", "-t", run, "--student", "cnn-small", "--trust", "--dry-run")
    assert call(*words).code == 0


def test_in_its_own_folder_names_are_as_they_were_typed(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(top / "project")
    header = read_header("runs/t")[1]
    assert (header.architecture, header.data["path"]) == ("nets/own.py:net", "photos")
    assert header.folder == str(top / "project")
    assert list(header.code) == ["nets/own.py"]


def test_a_copied_run_is_a_teacher_whose_code_runs_on_a_word_alone(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(top / "project/runs/t", theirs / "copied")
    shutil.copytree(top / "project/photos", theirs / "other")
    (top / "project").rename(top / "away")
    monkeypatch.chdir(theirs)
    try:
        words = ("-s", "data.path=other")
        refused = call("evaluate", "copied", *words)
        assert refused.code == 2
        assert "copied/code/own.py is code that the header of copied/model.safet" in refused.err
        assert call("evaluate", "copied", *words, "--trust").code == 0
        dry = ("distill", "-m", "kd", "-t", "copied", "--student", "mlp", *words, "--dry-run")
        assert call(*dry).code == 2
        assert call(*dry, "--trust").code == 0
        assert "no such folder: photos" in call("evaluate", "copied", "--trust").err
        with trusting(everything=True):
            assert load_network("copied")[1].architecture == "copied/code/own.py:net"
        Path("copied/code/own.py").write_text(OWN + "\n", encoding="utf-8")
        with pytest.raises(BadCheckpoint, match="is not the file that the run was made with"):
            read_header("copied")
        Path("copied/code/own.py").unlink()
        gone = call("evaluate", "copied", *words, "--trust").err
        assert "no such file: " in gone
        assert "nets/own.py" in gone
    finally:
        (top / "away").rename(top / "project")


def test_a_run_goes_on_from_another_folder(top: Path) -> None:
    run = top / "project/runs/t"
    assert json.loads((run / "environment.json").read_text())["folder"] == str(top / "project")
    stopped = run.parent / "stopped"
    shutil.copytree(run, stopped)
    (stopped / "summary.json").unlink()
    result = resume(stopped, trust=True)
    assert result.run == str(stopped)
    assert (stopped / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    longer = train_longer(run, 2, trust=True)
    assert Path(longer.run).parent == run.parent
    assert Path.cwd() == top / "elsewhere"
    shutil.rmtree(stopped)
    shutil.rmtree(longer.run)


# ---- other pictures ------------------------------------------------------------------------------


def test_other_pictures_of_the_same_classes_are_all_measured(top: Path, tmp_path: Path) -> None:
    run, other = str(top / "project/runs/t"), tmp_path / "other"
    for number in range(3):
        picture(other / "dog" / f"{number}.png", 200 + number)
    answer = call("evaluate", run, "--on", str(other), "--trust", "--json", "-q")
    (evaluation,) = answer.json["data"]["evaluations"]
    assert (evaluation["on"], evaluation["measures"]["n"]) == (str(other), 3)
    assert evaluation["measures"]["accuracy"] == 1.0
    assert not evaluation["trained_on_them"]
    text = call("evaluate", run, "--on", str(other), "--trust").out
    assert f"all · n = 3 · pictures in {other}" in text
    assert "1 of 2 classes have pictures here; none: cat" in text


def test_the_test_part_given_as_other_pictures_is_measured_alike(top: Path) -> None:
    run = str(top / "project/runs/t")
    words = ("evaluate", run, "--trust", "--json", "-q")
    split = call(*words).json["data"]["evaluations"][0]
    alike = call(*words, "--on", str(top / "project/photos/test")).json["data"]["evaluations"][0]
    assert alike["measures"] == split["measures"]


def test_what_is_no_folder_of_these_classes_is_refused(top: Path, tmp_path: Path) -> None:
    run = str(top / "project/runs/t")
    picture(tmp_path / "other/bird/0.png", 3)
    for words, said in (
        (("--on", str(tmp_path / "other")), "folders that are no classes of"),
        (("--on", str(top / "project/photos")), "photos/test, which has the class folders"),
        (("--on", str(tmp_path / "none")), "no such folder"),
        (("--on", str(tmp_path / "other"), "-d", "digits"), "neither data nor a split"),
        (("--on", str(tmp_path / "other"), "--split", "val"), "neither data nor a split"),
    ):
        answer = call("evaluate", run, "--trust", *words)
        assert answer.code == 2
        assert said in answer.err
    (tmp_path / "other/bird").rename(tmp_path / "other/cat")
    (tmp_path / "other/cat/0.png").write_bytes(b"none")
    answer = call("evaluate", run, "--trust", "--on", str(tmp_path / "other"))
    assert (answer.code, "is not an image, or is damaged" in answer.err) == (2, True)
