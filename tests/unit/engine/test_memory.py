"""A training step on a CPU does not have its memory mapped anew; and what does not fit is said in a
sentence.
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest
import torch

from kdcli.core.types import Batch
from kdcli.engine.evaluator import collect
from kdcli.engine.memory import memory_errors
from kdcli.errors import OutOfMemory
from kdcli.jobs import train_teacher
from kdcli.jobs.build import job

PROGRAM = """
import resource, torch
from kdcli.engine.runtime import Runtime
Runtime("cpu", threads=1)
def step():
    x = torch.ones(4 * 2**20)  # 16 MiB
    return (x * 2 + 1).sum()
for _ in range(3):
    step()
faults = []
for _ in range(3):  # once, a tensor may find no room among what was kept
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_steps_use_memory_again():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    pages_of_one_tensor = 16 * 2**20 // resource.getpagesize()
    assert int(done.stdout) < pages_of_one_tensor / 4


def full(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_batch_that_does_not_fit_when_it_is_measured_is_named():
    index = torch.arange(8)
    with pytest.raises(
        OutOfMemory, match=r"out of memory on cpu while measuring \(batch 8, fp32\)"
    ) as found:
        collect(full, [Batch(torch.zeros(8, 1), index, index, index)])
    assert "data.eval_batch_size=4" in found.value.hint


def test_images_that_do_not_fit_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(job, "open_feed", lambda *_, **__: full())
    with pytest.raises(OutOfMemory, match="out of memory on cpu for the images of digits"):
        train_teacher("quickstart-teacher", overrides={"runtime.device": "cpu"}, out=tmp_path)


def test_what_the_allocator_of_a_cpu_says_is_out_of_memory_and_other_errors_are_not():
    with pytest.raises(OutOfMemory), memory_errors(torch.device("cpu"), "here", "less"):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you "
            "tried to allocate"
        )
    with (
        pytest.raises(RuntimeError, match="shapes"),
        memory_errors(torch.device("cpu"), "here", "less"),
    ):
        raise RuntimeError("shapes")
