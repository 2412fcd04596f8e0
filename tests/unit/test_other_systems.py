"""kd imports where POSIX ends: without fcntl and what else Windows and macOS lack."""

from __future__ import annotations

import subprocess
import sys

import pytest

# torch and its like are loaded first: what they need of the system is their business
ELSEWHERE = """
import os, signal, sys
import numpy, torch, torch.distributed, torchvision, sklearn, matplotlib, filelock, pydantic, typer, rich
import multiprocessing.connection, subprocess, tempfile, multiprocessing.popen_spawn_posix
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("fork", "posix_fallocate", "sched_getaffinity", "sched_setaffinity", "getuid"):
    if hasattr(os, name):
        delattr(os, name)
del signal.pthread_sigmask
import {module}
"""


@pytest.mark.parametrize(
    "module", ["kdcli.jobs, kdcli.cli.app, kdcli.cli.commands.distill, kdcli.cli.commands.sweep"]
)
def test_it_imports_without_what_other_systems_lack(module):
    code = ELSEWHERE.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
