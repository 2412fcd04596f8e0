"""What is around a run goes wrong: files grow too large, folders vanish, streams are closed, variables
hold nonsense. Each is one sentence, and what can be resumed says so.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kdcli.data.datasets import folder
from kdcli.engine.meters import Meters
from kdcli.errors import BadData, Exit, Interrupted, NotWritable, UsageError, WriteFailed
from kdcli.files import check_folder, check_writable, sha256_file, write_atomic, write_text
from kdcli.jobs import resume, train_teacher
from kdcli.jobs.events import EpochDone
from kdcli.surroundings import at_home, started_rank

ROOT = Path(__file__).parents[2]
QUICK = {"data.train_limit": 60, "train.batch_size": 20, "report.html": False, "report.probe": 0}


def train(out: Path, *, listeners=(), **more):
    return train_teacher(
        model="mlp",
        data="digits",
        epochs=3,
        name="run",
        out=out,
        overrides={**QUICK, "train.state_seconds": 0.001},
        listeners=listeners,
        **more,
    )


def kd(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kdcli", *arguments]
    return subprocess.run(command, text=True, check=False, **options)


# ---- while a run goes on -------------------------------------------------------------------------


def test_a_file_that_grows_too_large_stops_a_run_that_can_be_resumed(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(event) -> None:
        if isinstance(event, EpochDone) and event.at.epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))

    try:
        with pytest.raises(WriteFailed, match="File too large") as caught:
            train(tmp_path / "runs", listeners=(limit,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == Exit.FAILURE
    assert f"kd resume {tmp_path / 'runs' / 'run'}" in caught.value.hint
    resume(tmp_path / "runs" / "run")
    train(tmp_path / "untouched")
    assert sha256_file(tmp_path / "runs" / "run" / "model.safetensors") == sha256_file(
        tmp_path / "untouched" / "run" / "model.safetensors"
    )


@pytest.mark.parametrize("what", ["runs", "runs/run"])
def test_a_run_that_is_removed_while_it_goes_on_says_so_and_is_not_made_again(tmp_path, what):
    def remove(event) -> None:
        if isinstance(event, EpochDone) and event.at.epoch == 1:
            shutil.rmtree(tmp_path / what)

    with pytest.raises(WriteFailed, match=r"runs/run was removed while the run was going on"):
        train(tmp_path / "runs", listeners=(remove,))
    assert not (tmp_path / what).exists()


def test_a_start_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_arguments) -> None:
        raise NotWritable("no")

    monkeypatch.setattr("kdcli.jobs.train.run.write_environment", full)
    with pytest.raises(NotWritable):
        train(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_out_that_is_a_file_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr("kdcli.jobs.train.run.build_job", lambda *_, **__: pytest.fail("built"))
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(NotWritable, match="is a file"):
            train(out)


# ---- Ctrl-C --------------------------------------------------------------------------------------


def test_what_breaks_in_a_step_after_ctrl_c_is_an_interruption(tmp_path, monkeypatch):
    epochs, means = iter(range(1, 4)), Meters.means

    def compiler_dies(self):
        if next(epochs) == 2:
            signal.raise_signal(signal.SIGINT)
            raise RuntimeError("C++ compile error")
        return means(self)

    with monkeypatch.context() as patch:
        patch.setattr(Meters, "means", compiler_dies)
        with pytest.raises(Interrupted) as caught:
            train(tmp_path / "runs")
    run = tmp_path / "runs" / "run"
    assert caught.value.exit_code == Exit.INTERRUPTED
    assert caught.value.hint == f"kd resume {run}"
    assert not (run / "crash.txt").exists()
    assert resume(run).epochs == 3


def test_a_second_ctrl_c_says_how_to_go_on(tmp_path):
    def hurry(event) -> None:
        if isinstance(event, EpochDone) and event.at.epoch == 1:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        train(tmp_path / "runs", listeners=(hurry,))
    assert caught.value.hint == f"kd resume {tmp_path / 'runs' / 'run'}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_ctrl_c_while_networks_are_compiled(tmp_path):
    compiler = tmp_path / "interrupted-compiler"
    compiler.write_text("#!/bin/sh\nkill -INT 0\nsleep 2\nexit 1\n")  # to the whole process group
    compiler.chmod(0o755)
    done = kd(
        "train-teacher", "--model", "mlp", "--name", "run", "-s", "runtime.compile=on", "-s", "data.train_limit=100",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        start_new_session=True,
    )  # fmt: skip
    assert done.returncode == Exit.INTERRUPTED, done.stderr
    assert "compiling the networks for the first step" in done.stderr
    assert done.stderr.splitlines()[-2:] == [
        "interrupted; what was saved before is kept",
        "  continue:  kd resume runs/run",
    ]
    assert "Traceback" not in done.stderr
    resumed = kd(
        "resume",
        "runs/run",
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "compiled in" in resumed.stderr


# ---- files ---------------------------------------------------------------------------------------


def test_a_file_has_the_permissions_of_a_new_one_whatever_its_writer_gives_it(tmp_path):
    def private(path: Path) -> None:
        path.unlink()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    before = os.umask(0o022)
    try:
        write_atomic(tmp_path / "x", private)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644
    result = train(tmp_path / "runs")
    modes = {path.stat().st_mode for path in Path(result.run).iterdir() if path.is_file()}
    assert len(modes) == 1


@pytest.mark.parametrize("place", ["file/x", "file/x/y", "folder", "a" * 300, "/proc/nothing"])
def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for attempt in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(NotWritable, match="cannot write"):
            attempt(tmp_path / place)
    if place != "folder":
        with pytest.raises(NotWritable, match="cannot write"):
            check_folder(tmp_path / place / "plots")


def test_a_device_is_written_to_and_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "text")
    assert os.read(reader, 10) == b"text"
    with pytest.raises(NotWritable, match="a device or a pipe"):
        write_atomic(pipe, lambda path: path.write_text("other"))
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


# ---- the process ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE is 'abc'"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1'"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE is '999"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK is 'x'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, and WORLD_SIZE 2"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "b"}, "MASTER_PORT is 'b'"),
    ],
)
def test_nonsense_in_the_variables_of_torchrun_is_named(variables, problem):
    with pytest.raises(UsageError) as caught:
        started_rank(variables)
    assert problem in caught.value.message
    assert len(caught.value.message) < 100


def test_a_home_folder_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="~nobody-of-that-name/x: this machine knows no such home"):
        at_home("~nobody-of-that-name/x")


def test_closed_streams_change_nothing(tmp_path):
    script = 'exec 0<&- 1>&- 2>&-; "$0" -m kdcli recipes cp quickstart mine.toml; echo $? > code'
    subprocess.run(["bash", "-c", script, sys.executable], cwd=tmp_path, check=False)
    assert (tmp_path / "code").read_text() == "0\n"
    shown = kd("recipes", "show", "quickstart", stdout=subprocess.PIPE).stdout
    assert (tmp_path / "mine.toml").read_text() == shown


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("methods",)])
def test_a_full_stdout_is_told(arguments):
    with Path("/dev/full").open("w") as full:
        done = kd(*arguments, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stderr == (
        "warning: the answer could not be written to stdout: No space left on device\n"
    )


def test_a_working_directory_that_is_gone_is_named(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'rmdir "$1"; "$0" -m kdcli methods'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, gone],
        cwd=gone,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.USAGE
    assert "error: the working directory is gone" in done.stderr


def test_names_that_are_no_utf8_are_refused(tmp_path):
    done = kd("evaluate", b"r\xff", cwd=tmp_path, capture_output=True)  # type: ignore[arg-type]
    assert done.returncode == Exit.USAGE
    assert done.stderr == "error: r\\udcff is not UTF-8, as kd's files are\n  rename it\n"


def test_a_class_folder_whose_name_is_no_utf8_is_named(tmp_path):
    for split in (b"train", b"test"):
        for name in (b"a", b"\xff"):
            (tmp_path / os.fsdecode(split) / os.fsdecode(name)).mkdir(parents=True)
    with pytest.raises(BadData, match=r"the name of the class folder .*train/\\udcff is not UTF-8"):
        folder.load("image-folder", options=folder.Options(path=str(tmp_path)), root=tmp_path)


def test_libraries_warn_nobody_and_the_users_own_files_do():
    script = """
import logging, warnings
from kdcli.surroundings import hush_libraries
hush_libraries()
warnings.warn("of kd's own")
warnings.warn_explicit("of torch", UserWarning, "f.py", 1, module="torch.nn")
logging.getLogger("matplotlib.font_manager").warning("of a font")
warnings.warn_explicit("of the user's file", UserWarning, "mine.py", 1, module="kdcli_user_mine")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert [line for line in done.stderr.splitlines() if " of " in f" {line}"] == [
        "mine.py:1: UserWarning: of the user's file"
    ]
