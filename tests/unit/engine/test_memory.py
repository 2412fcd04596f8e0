"""A training step on a CPU does not have its memory mapped anew: tensors use again what others gave back."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from kdcli.engine.runtime import Runtime
Runtime("cpu", threads=1)
def step():
    x = torch.ones(4 * 2**20)  # 16 MiB
    return (x * 2 + 1).sum()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_steps_use_memory_again():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    pages_of_one_tensor = 16 * 2**20 // resource.getpagesize()
    # ten tensors; on a busy machine one of them may find no room among what was kept
    assert int(done.stdout) < 2 * pages_of_one_tensor
