"""What networks cost: parameters, multiply-accumulates, size on disk, latency.

The one place where they are found, for `kd evaluate`, `kd analyze-gap` and the end of a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kdcli.core.network import Network, parameter_count
from kdcli.engine.evaluator import evaluating
from kdcli.models.cost import macs
from kdcli.results.cost import CapacityGap, Cost, Latency
from kdcli.results.intervals import Estimate
from kdcli.results.weights_header import MODEL_FILE

BATCHES = (1, 32)
REPEATS, WARM_UP = 30, 5
# of one latency: a network that takes longer is measured less often, but not less than so often
SECONDS, LEAST = 0.5, 3


def cost(network: Network, image: Tensor, *, checkpoint: str = "", timed: bool) -> Cost:
    """What a network costs.

    Args:
        network: on its device.
        image: one as it sees them, [1,C,H,W], there.
        checkpoint: its file; size_bytes is None where there is none.
        timed: latencies too.
    """
    # somebody's own network may do what cannot be counted
    try:
        operations = macs(network, (image.shape[1], image.shape[2], image.shape[3]), image)
    except (RuntimeError, NotImplementedError):
        operations = None
    return Cost(
        parameter_count(network),
        operations,
        size_of(checkpoint),
        tuple(latency(network, image, batch) for batch in BATCHES) if timed else (),
    )


def size_of(checkpoint: str | Path) -> int | None:
    """Bytes of a checkpoint's file, or of a run's; None where there is none."""
    path = Path(checkpoint)
    if path.is_dir():
        path /= MODEL_FILE
    return path.stat().st_size if checkpoint and path.is_file() else None


def latency(network: Network, image: Tensor, batch: int) -> Latency:
    """How long a forward pass of `batch` copies of an image [1,C,H,W] takes, on its device."""
    wait: Callable[[], object] = torch.cuda.synchronize if image.device.type == "cuda" else int
    images = torch.cat([image] * batch)
    seconds: list[float] = []
    began = time.perf_counter()
    with torch.inference_mode(), evaluating(network):
        for number in range(WARM_UP + REPEATS):
            late = time.perf_counter() - began > SECONDS
            if late and len(seconds) >= LEAST:
                break
            wait()
            start = time.perf_counter()
            network(images)
            wait()
            if number >= WARM_UP or late:  # what is slow is warm after a pass or two
                seconds.append(time.perf_counter() - start)
    quartiles = torch.quantile(
        torch.tensor(seconds, dtype=torch.float64),
        torch.tensor((0.25, 0.5, 0.75), dtype=torch.float64),
    )
    low, middle, high = quartiles.tolist()
    return Latency(
        "eager",
        batch,
        Estimate(middle, low, high),
        len(seconds),
        image.device.type,
        torch.get_num_threads(),
    )


def sum_of(each: list[Cost]) -> Cost:
    """What several networks cost that are all asked; how long they take together is not known."""
    operations = [item.macs for item in each if item.macs is not None]
    sizes = [item.size_bytes for item in each if item.size_bytes is not None]
    return Cost(
        sum(item.parameters for item in each),
        sum(operations) if len(operations) == len(each) else None,
        sum(sizes) if len(sizes) == len(each) else None,
    )


def capacity_gap(teacher: Cost, student: Cost) -> CapacityGap:
    """Both costs, and how many times the teacher's is the student's."""
    times = (teacher.latency_1_ms, student.latency_1_ms)
    return CapacityGap(
        teacher=teacher,
        student=student,
        parameter_ratio=teacher.parameters / student.parameters,
        macs_ratio=teacher.macs / student.macs if teacher.macs and student.macs else None,
        latency_ratio=times[0] / times[1] if times[0] and times[1] else None,
    )
