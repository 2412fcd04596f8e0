"""The process group of a run on several devices: joined for a job, left when it is done."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from kdcli.engine.distributed import Ranks
from kdcli.engine.hardware import choose_device
from kdcli.recipe.schema import RuntimeSection

# Ranks wait this long for each other, and the first may measure for hours. That one died they learn
# at once, from the connection or from who started them; one that hangs would hang alone as well.
_PATIENCE = timedelta(days=1)


@contextmanager
def joined(section: RuntimeSection, meeting: str = "env://") -> Iterator[None]:
    """Joins the process group of RANK and WORLD_SIZE, unless this process is in one already.

    Args:
        meeting: where ranks find each other, as torch.distributed has it.
    """
    if Ranks.current().size > 1:
        yield
        return
    cuda, rank = on_cuda(section), int(os.environ["RANK"])
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if rank:
        warnings.simplefilter("ignore")  # the first says it already
    prepare()
    with _nothing_on_stdout():
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            init_method=meeting,
            rank=rank,
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=_PATIENCE,
        )
    yield
    leave()  # not after an error: another rank may never come to it


def prepare() -> None:
    """Imports, before a process group is joined, what would keep it for ever if it came later.

    Functions of torch.distributed.nn have the group that there is when they are imported as a
    default argument, and DistributedDataParallel imports them. A group that is kept has threads
    that outlive `destroy_process_group`, and may abort the process while Python ends.
    """
    importlib.import_module("torch.distributed.nn.functional")


def leave() -> None:
    """Leaves the process group and ends its threads, once nothing that averages gradients is in
    use.
    """
    gc.collect()  # modules and their reducers refer to each other, and to the group
    distributed.destroy_process_group()


@contextmanager
def _nothing_on_stdout() -> Iterator[None]:
    """Sends to stderr what libraries print from C: stdout is for kd's answer."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def on_cuda(section: RuntimeSection) -> bool:
    """True if a job of this [runtime] computes on CUDA devices."""
    return choose_device(section.device).value != "cpu"
