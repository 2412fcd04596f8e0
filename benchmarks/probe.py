"""Measures the cost of following a student along training: seconds in the probe for each second of
training.

Probe and training alternate in one run, so a busy moment meets both. Pictures are noise; the cost
does not depend on what they show.

    python -m benchmarks.probe
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from kdcli.core.method import Stage
from kdcli.core.network import Network
from kdcli.engine.events import EpochDone
from kdcli.jobs import distill, train_teacher
from kdcli.jobs.train import dynamics
from kdcli.results.dynamics import Snapshot

EPOCHS = 4


SECONDS: list[float] = []  # of each probe
_measure = dynamics.Monitor.__call__


def timed(prober: dynamics.Monitor, network: Network, stage: Stage, step: int) -> Snapshot | None:
    """A probe whose time is noted."""
    start = time.perf_counter()
    found = _measure(prober, network, stage, step)
    SECONDS.append(time.perf_counter() - start)
    return found


def share(
    name: str, method: str, out: Path, common: dict[str, Any], model: str, student: str
) -> None:
    """Train a teacher for an epoch, distil it, and print what the probe took beside an epoch."""
    epochs: list[float] = []
    teacher = out / f"teacher-{model}"
    if not teacher.exists():
        train_teacher(model=model, out=out, name=teacher.name, epochs=1, overrides=common)
    SECONDS.clear()
    listener = lambda event: epochs.append(event.seconds) if isinstance(event, EpochDone) else None  # noqa: E731
    distill(
        teacher=str(teacher),
        student=student,
        method=method,
        out=out,
        epochs=EPOCHS,
        overrides=common,
        listeners=[listener],
    )
    # the first probe and the first epoch pay for what is done once
    probed, trained = statistics.median(SECONDS[2:]), statistics.median(epochs[1:])
    print(
        f"  {name:32} {method:5} epoch {trained:7.3f} s   probe {probed * 1000:6.1f} ms   "
        f"{100 * probed / trained:5.1f} % of an epoch"
    )


def main() -> None:
    """Measure and print."""
    print(f"probe of 512 images, medians over {EPOCHS - 1} epochs")
    with tempfile.TemporaryDirectory() as folder, patch.object(dynamics.Monitor, "__call__", timed):
        out = Path(folder)
        for method in ("kd", "slkd"):
            share("digits", method, out, {"report.html": False}, "cnn-large", "cnn-small")
        rng = np.random.default_rng(0)
        np.savez(
            out / "noise.npz",
            x_train=rng.integers(0, 256, (8000, 28, 28), dtype=np.uint8),
            y_train=np.arange(8000) % 10,
            x_test=rng.integers(0, 256, (100, 28, 28), dtype=np.uint8),
            y_test=np.arange(100) % 10,
        )
        noise = {"report.html": False, "data.name": "npz", "data.path": str(out / "noise.npz")}
        share("8000 pictures of 28x28, resnet8", "kd", out, noise, "resnet20", "resnet8")


if __name__ == "__main__":
    main()
