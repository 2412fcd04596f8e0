"""Measures what a user waits for: the start of a command, the first step, and the quickstart's
training.

Everything is measured in one run of this script, in interleaved rounds, and given as the median
with its ratio to the thing beside it that does the least: a bare interpreter, and a bare training
loop of the same network on the same data.

    python -m benchmarks.startup
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.processes import seconds_of, seconds_to_first_step

ROUNDS = 7
EPOCHS = 3
COMMANDS: Mapping[str, list[str]] = {
    "python -c pass": ["-c", "pass"],
    "kd --version": ["-m", "kdcli", "--version"],
    "kd --help": ["-m", "kdcli", "--help"],
    "kd methods": ["-m", "kdcli", "methods"],
    "kd check quickstart": ["-m", "kdcli", "check", "quickstart"],
}


def interleaved(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median of each measure over rounds that take them in turn, so that a busy moment meets all of
    them.
    """
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            taken[name].append(measure())
    return {name: statistics.median(values) for name, values in taken.items()}


def seconds_after_torch(rounds: int) -> list[float]:
    """From the end of `import torch` to the end of the first step of `kd distill`, with the
    quickstart's networks and data, of so many starts; its teacher has had one epoch.
    """
    from kdcli.jobs import train_teacher

    with tempfile.TemporaryDirectory() as out:
        teacher = train_teacher("quickstart-teacher", out=out, epochs=1)
        assert teacher is not None
        recipe = Path(out) / "one.toml"
        recipe.write_text(
            f'extends = "quickstart"\n[teacher]\ncheckpoint = "{teacher.run}"\n', encoding="utf-8"
        )
        return [
            seconds_to_first_step(recipe, Path(out) / "runs", Path(out) / f"cache-{number}")[1]
            for number in range(rounds)
        ]


def kd_images_per_second() -> float:
    """Training speed that kd itself reports for the last epoch of the quickstart's teacher."""
    from kdcli.engine.events import EpochDone
    from kdcli.jobs import train_teacher

    speeds: list[float] = []
    with tempfile.TemporaryDirectory() as out:

        def listener(event: object) -> None:
            if isinstance(event, EpochDone):
                speeds.append(event.images_per_second)

        train_teacher("quickstart-teacher", out=out, epochs=EPOCHS, listeners=[listener])
    return speeds[-1]


def bare_images_per_second() -> float:
    """The same network, batch size and optimiser in a loop that does nothing else."""
    import torch

    from kdcli.core.options import Options
    from kdcli.data.datasets import digits
    from kdcli.jobs import build_network

    source = digits.load("digits", options=Options(), root=Path())
    x = ((source.x_train / 255 - source.mean[0]) / source.std[0]).contiguous(
        memory_format=torch.channels_last
    )
    network = build_network("cnn-large", num_classes=10, input_shape=(1, 8, 8)).to(
        memory_format=torch.channels_last
    )
    optimiser = torch.optim.SGD(
        network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True
    )
    for _ in range(EPOCHS):
        start = time.perf_counter()
        for chosen in torch.split(torch.randperm(len(x)), 64):
            loss = torch.nn.functional.cross_entropy(
                network(x[chosen]).logits, source.y_train[chosen]
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad()
    return len(x) / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    starts = interleaved(
        {name: functools.partial(seconds_of, arguments) for name, arguments in COMMANDS.items()},
        ROUNDS,
    )
    base = starts["python -c pass"]
    print(f"start-up, median of {ROUNDS} interleaved rounds")
    for name, value in starts.items():
        print(f"  {name:20} {value * 1000:7.0f} ms   {value / base:5.1f} x python")
    taken = seconds_after_torch(ROUNDS)
    print(f"\nfrom the end of import torch to the first step of kd distill, {ROUNDS} starts")
    print(
        f"  {'the quickstart':20} {statistics.median(taken):7.2f} s    "
        f"({min(taken):.2f} to {max(taken):.2f})"
    )
    speeds = interleaved({"kd": kd_images_per_second, "bare loop": bare_images_per_second}, 3)
    print("\ntraining the quickstart's teacher, last of 3 epochs, median of 3 interleaved rounds")
    for name, value in speeds.items():
        print(f"  {name:20} {value:7.0f} images/s   {value / speeds['bare loop']:5.2f} x bare loop")


if __name__ == "__main__":
    main()
