"""Windows and macOS lack modules and functions that Linux has: kd is imported there all the same."""

from __future__ import annotations

import subprocess
import sys

LIKE_WINDOWS = """
import os, signal, sys
import torch, torchvision  # they ask for the system that they are really on

for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "syslog"):
    sys.modules[name] = None  # an ImportError from now on
for owner, names in {
    os: "posix_fallocate sched_getaffinity sched_setaffinity fork getuid geteuid killpg",
    signal: "pthread_sigmask SIGKILL SIGHUP SIGALRM",
}.items():
    for name in names.split():
        vars(owner).pop(name, None)
"""
EVERYTHING = """
import pkgutil
import kdcli.cli.app
import kdcli.jobs

for module in pkgutil.walk_packages(kdcli.__path__, "kdcli."):
    __import__(module.name)
assert kdcli.jobs.sweep.workers.machine_cores()
assert kdcli.jobs.doctor()
"""


def test_no_module_needs_what_only_some_systems_have():
    done = subprocess.run(
        [sys.executable, "-c", LIKE_WINDOWS + EVERYTHING],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
