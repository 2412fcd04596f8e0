"""What the memory of a job is of: a process of its own, which looks at itself on the way.

    python -m benchmarks.memory_of kd RECIPE OUT
    python -m benchmarks.memory_of loop PAIR BATCH

`kd` runs a distill recipe. `loop` makes the textbook's steps with torch alone, live teacher and
all, in full precision and without compiling: what torch needs for it. Both print MiB as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable

from benchmarks.processes import resident_mib

_STEPS = 8  # until the C library's memory is as large as it gets


def main() -> None:
    """Measures one of the two."""
    what, *rest = sys.argv[1:]
    found: dict[str, float] = {}

    def look(name: str) -> None:
        found.setdefault(name, resident_mib() or float("nan"))

    look("Python")
    import torch  # noqa: F401

    look("import torch")
    if what == "kd":
        _job(rest[0], rest[1], look)
    else:
        _loop(rest[0], int(rest[1]), look)
    found["at most"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps(found))


def _job(recipe: str, out: str, look: Callable[[str], None]) -> None:
    from kdcli import jobs
    from kdcli.jobs.events import Event, Prepared, StageDone, StepDone

    look("kd's imports")

    def listen(event: Event) -> None:
        if isinstance(event, Prepared):
            look("data and networks are there")
        elif isinstance(event, StepDone) and event.at.step == _STEPS:
            look(f"{_STEPS} steps")
        elif isinstance(event, StageDone):
            look("trained")

    jobs.distill(recipe=recipe, out=out, listeners=[listen])
    look("measured, reported")


def _loop(pair_name: str, batch: int, look: Callable[[str], None]) -> None:
    import torch

    from benchmarks.pairs import PAIRS
    from benchmarks.textbook_step import distillation_loss, make_optimiser
    from kdcli.jobs.build.networks import build_network

    pair = PAIRS[pair_name]
    teacher, student = (
        build_network(name, num_classes=pair.classes, input_shape=pair.shape)
        for name in (pair.teacher, pair.student)
    )
    teacher.eval()
    optimiser = make_optimiser(pair, student)
    look("data and networks are there")
    for _ in range(_STEPS):
        x, y = torch.randn(batch, *pair.shape), torch.zeros(batch, dtype=torch.int64)
        with torch.no_grad():
            answer = teacher(x).logits
        loss = distillation_loss(student(x).logits, answer, y)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    look(f"{_STEPS} steps")


if __name__ == "__main__":
    main()
