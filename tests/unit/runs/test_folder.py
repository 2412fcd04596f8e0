"""A run belongs to one process at a time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from kdcli.errors import NotWritable, UsageError
from kdcli.runs import find
from kdcli.runs import folder as run_folder

HOLD = """
import sys
from pathlib import Path
from kdcli.runs import folder
with folder.claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_another_process_is_at_work_on_is_neither_taken_nor_gone_on_with(tmp_path):
    run = tmp_path / "run"
    (run / "state").mkdir(parents=True)
    (run / "state" / "state-1.safetensors").touch()
    (run / "environment.json").write_text(json.dumps({"recipe_sha256": "abc"}))
    assert find.unfinished_run(tmp_path, "abc") == run
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        assert find.unfinished_run(tmp_path, "abc") is None
        with pytest.raises(UsageError, match="another process is at work"), run_folder.claimed(run):
            pass
        other.kill()  # however it ends, it lets go
    assert find.unfinished_run(tmp_path, "abc") == run
    with run_folder.claimed(run):
        pass
    assert not (run / ".lock").exists()  # what the killed process left is gone too


def test_of_a_claim_nothing_is_left(tmp_path):
    with run_folder.claimed(tmp_path):
        assert find.busy(tmp_path)
        with (
            pytest.raises(UsageError, match="another process is at work"),
            run_folder.claimed(tmp_path),
        ):
            pass
    assert not list(tmp_path.iterdir())
    assert not find.busy(tmp_path)
    assert not list(tmp_path.iterdir())  # nor does a question leave something


def test_who_opened_the_lock_of_a_run_that_was_let_go_has_no_claim_on_it(tmp_path, monkeypatch):
    """A third process would make a lock of its own, and two would be at work."""
    fcntl = pytest.importorskip("fcntl")
    lock = fcntl.flock

    def late(handle, operation):
        monkeypatch.setattr(fcntl, "flock", lock)
        (tmp_path / ".lock").unlink()  # between the opening of the file and its locking
        return lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with (
        pytest.raises(UsageError, match="another process is at work"),
        run_folder.claimed(tmp_path),
    ):
        pass


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_knows_no_locks_does_without(tmp_path, monkeypatch, reason):
    fcntl = pytest.importorskip("fcntl")

    def unknown(_handle, _operation):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with run_folder.claimed(tmp_path):
        assert not find.busy(tmp_path)
        with run_folder.claimed(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_a_run_that_cannot_be_written_to_is_not_claimed(tmp_path):
    with pytest.raises(NotWritable, match="cannot write"), run_folder.claimed(tmp_path / "nothing"):
        pass
