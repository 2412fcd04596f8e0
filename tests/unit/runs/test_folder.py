"""A run belongs to one process at a time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kdcli.errors import UsageError
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
