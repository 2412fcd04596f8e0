"""What networks cost: parameters, multiply-accumulates, size on disk, latency.

The one place where they are found, for `kd evaluate`, `kd analyze-gap` and the end of a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kdcli.core.network import Network, parameter_count
from kdcli.engine.evaluator import evaluating
from kdcli.errors import shortened
from kdcli.jobs.build import kept
from kdcli.models.cost import macs
from kdcli.results.cost import CapacityGap, Cost, Form, Latency
from kdcli.results.intervals import Estimate
from kdcli.results.weights_header import MODEL_FILE

Ask = Callable[[Tensor], object]
BATCHES = (1, 32)
REPEATS, WARM_UP = 30, 5
# of one latency: a network that takes longer is measured less often, but not less than so often
SECONDS, LEAST = 0.5, 3


def check_forms(forms: Sequence[Form]) -> None:
    """Refuses forms that cannot be had here, before anything is measured.

    Raises:
        UsageError: a package is missing.
    """
    if "onnx" in forms:
        from kdcli.jobs.use.formats import check_installed  # with all that exports networks

        check_installed("onnx")


def cost(
    network: Network,
    image: Tensor,
    *,
    checkpoint: str = "",
    timed: bool,
    forms: Sequence[Form] = (),
    left_out: list[str] | None = None,
) -> Cost:
    """What a network costs.

    Args:
        network: on its device.
        image: one as it sees them, [1,C,H,W], there.
        checkpoint: its file; size_bytes is None where there is none.
        timed: latencies too, in eager PyTorch.
        forms: others to time, "compiled" and "onnx", which take seconds to make; and "int8", where
            such a file lies beside the checkpoint.
        left_out: gets a sentence for each form that could not be had.
    """
    operations, latencies = _eager(network, image, timed=timed)
    return Cost(
        parameter_count(network),
        operations,
        size_of(checkpoint),
        (
            *latencies,
            *_other_forms(network, image, checkpoint, forms, [] if left_out is None else left_out),
        ),
    )


def _eager(
    network: Network, image: Tensor, *, timed: bool
) -> tuple[int | None, tuple[Latency, ...]]:
    """Multiply-accumulates and latencies of a network; of cells of a sweep that differ in its
    weights alone, the first one's.
    """

    def found() -> tuple[int | None, tuple[Latency, ...]]:
        # somebody's own network may do what cannot be counted
        try:
            operations = macs(network, (image.shape[1], image.shape[2], image.shape[3]), image)
        except (RuntimeError, NotImplementedError):
            operations = None
        return operations, tuple(latency(network, image, batch) for batch in BATCHES if timed)

    if network.blueprint is None:
        return found()
    layouts = {
        (parameter.dtype, parameter.stride(), str(parameter.device))
        for parameter in network.parameters()
    }
    about = (network.blueprint, tuple(image.shape), image.dtype, timed, torch.get_num_threads())
    return kept.get("cost", repr((about, sorted(map(repr, layouts)))), found, most=256)


def _other_forms(
    network: Network, image: Tensor, checkpoint: str, forms: Sequence[Form], left_out: list[str]
) -> Iterator[Latency]:
    from kdcli.jobs.measure.forms import in_form, int8_beside, of_file

    for form in (each for each in forms if each != "eager"):
        try:
            if form == "int8":
                path = int8_beside(checkpoint)
                if path is not None:
                    yield from _timed(form, *of_file(path, image))
                continue
            with evaluating(network), in_form(form, network, image) as (ask, given):
                yield from _timed(form, ask, given)
        except Exception as error:  # noqa: BLE001  compilers and exporters raise what they like
            text = str(error).strip().partition("\n")[0]
            found = shortened(f"{type(error).__name__}: {text}", 200)
            left_out.append(f"{checkpoint or 'the network'} is not timed as {form}: {found}")


def _timed(form: Form, ask: Ask, image: Tensor) -> list[Latency]:
    """All batches, or none."""
    return [_latency(form, ask, image, batch) for batch in BATCHES]


def size_of(checkpoint: str | Path) -> int | None:
    """Bytes of a checkpoint's file, or of a run's; None where there is none."""
    path = Path(checkpoint)
    if path.is_dir():
        path /= MODEL_FILE
    return path.stat().st_size if checkpoint and path.is_file() else None


def latency(network: Network, image: Tensor, batch: int) -> Latency:
    """How long a forward pass of `batch` copies of an image [1,C,H,W] takes, on its device."""
    with evaluating(network):
        return _latency("eager", network, image, batch)


def _latency(form: Form, ask: Ask, image: Tensor, batch: int) -> Latency:
    wait: Callable[[], object] = torch.cuda.synchronize if image.device.type == "cuda" else int
    images = torch.cat([image] * batch)
    seconds: list[float] = []
    began = time.perf_counter()
    # what compiles does so in the first pass, which takes none of the time for passes
    if form == "compiled":
        with torch.inference_mode():
            ask(images)
        began = time.perf_counter()
    with torch.inference_mode():
        for number in range(WARM_UP + REPEATS):
            late = time.perf_counter() - began > SECONDS
            if late and len(seconds) >= LEAST:
                break
            wait()
            start = time.perf_counter()
            ask(images)
            wait()
            if number >= WARM_UP or late:  # what is slow is warm after a pass or two
                seconds.append(time.perf_counter() - start)
    quartiles = torch.quantile(
        torch.tensor(seconds, dtype=torch.float64),
        torch.tensor((0.25, 0.5, 0.75), dtype=torch.float64),
    )
    low, middle, high = quartiles.tolist()
    return Latency(
        form,
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
