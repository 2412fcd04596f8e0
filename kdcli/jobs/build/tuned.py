"""Automatic choices by what `kd doctor --tune` has measured on this machine: precision, threads,
memory layout, compiling and the batch of teachers. Without a measurement the rules of
kdcli.engine.hardware hold.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcli import tasks
from kdcli.core.network import Network
from kdcli.core.types import Feed
from kdcli.engine import hardware
from kdcli.engine.hardware import Choice
from kdcli.engine.runtime import Runtime
from kdcli.errors import CorruptFile, KdError, NotFound
from kdcli.files import read_json, write_json
from kdcli.models.cost import density, macs
from kdcli.recipe.schema import RuntimeSection
from kdcli.results.tuning import GAIN, WORDS, Machine, TunedNetwork, Tuning, Way
from kdcli.surroundings import cache_root
from kdcli.typed import from_dict


def this_machine() -> Machine:
    """What measurements that are made now are of."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Machine(
        _processor(),
        cores or 1,
        torch.get_num_threads(),
        hardware.cpu_unit() or "",
        str(torch.__version__),
    )


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()[:120]
    return (platform.processor() or platform.machine())[:120]


def tuning_file() -> Path:
    """Where a measurement is kept."""
    return cache_root() / "tuning.json"


def write_tuning(tuning: Tuning) -> Path:
    """Keeps a measurement in the place of an earlier one; gives the file.

    Raises:
        DiskFull, NotWritable: it cannot be written.
    """
    file = tuning_file()
    write_json(file, tuning)
    return file


def read_tuning() -> tuple[Tuning | None, str]:
    """The measurement of this machine, and what is to be said of one that is not used; None and ""
    where nothing was measured.
    """
    file = tuning_file()
    try:
        found = from_dict(Tuning, read_json(file), file)
        if not found.plausible:
            raise CorruptFile(f"{file} is not what kd writes: a number in it cannot be one")
    except NotFound:
        return None, ""
    except KdError as error:
        return None, f"{error.message}: it is not used (kd doctor --tune measures again)"
    here = this_machine()
    for what, measured, now in (
        ("processor", found.machine.processor, here.processor),
        ("number of cores", str(found.machine.cores), str(here.cores)),
        ("unit for bf16", found.machine.unit or "none", here.unit or "none"),
        ("torch", found.machine.torch, here.torch),
    ):
        if measured != now:
            return None, (
                f"{file} was measured with another {what} ({measured}, here {now}): it is not used "
                "(kd doctor --tune measures again)"
            )
    return found, ""


# ---- choices -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settled:
    """What a run began with, which it goes on with whatever has been measured since. None where an
    older kd has not written it down.
    """

    precision: hardware.Wanted | None = None
    teacher_precision: hardware.Wanted | None = None
    channels_last: bool | None = None
    threads: int | None = None
    teacher_images: int | None = None


def settle(
    runtime: Runtime,
    section: RuntimeSection,
    feed: Feed,
    student: Network,
    settled: Settled | None,
) -> tuple[TunedNetwork, str] | None:
    """Settles how the student is computed: as a resumed run began, by what was measured on this
    machine, or by rules. Gives the measured network that is most like the student, and the day.
    """
    task, image = tasks.named(feed.info.task), torch.zeros(1, *feed.info.input_shape)
    tuning, runtime.untuned = read_tuning() if task.fixed_shape else (None, "")
    measured = tuning if settled is None else None
    values = density(student, image) if runtime.weighs_networks or measured else 0.0
    runtime.suit(values)
    if settled is not None:
        keep(runtime, settled)
    if measured is None:
        return None
    network = values, macs(student, feed.info.input_shape, image)
    like = tune(runtime, section, measured, network, half=task.half_precision)
    return None if like is None else (like, measured.date)


def tune(
    runtime: Runtime,
    section: RuntimeSection,
    tuning: Tuning | None,
    network: tuple[float, int],
    *,
    half: bool,
) -> TunedNetwork | None:
    """Settles what [runtime] leaves to be chosen by what was measured on this machine; gives the
    measured network that is most like the one to be trained, None where nothing tells.

    Args:
        network: its density and its multiply-accumulates an image. half: whether the task may be
            computed in less than float32.
    """
    if tuning is None or runtime.device.type != "cpu" or runtime.ranks.size > 1:
        return None
    found = tuning.nearest(*network)
    ways = [way for way in found.ways if _allowed(way, section, tuning, half=half)]
    rule = (
        "bf16" if runtime.dtype == torch.bfloat16 else "fp32",
        _threads(tuning),
        "channels_last",
    )
    usual = next((way for way in ways if way.key == rule), None) or _fastest(ways)
    if usual is None:
        return None
    best = _fastest(ways) or usual
    if best.images_per_second < GAIN * usual.images_per_second:
        best = usual
    _take(runtime, section, best, _reasons(best, ways, tuning, found), half=half)
    _take_teachers(runtime, section, tuning)
    return found


def _threads(tuning: Tuning) -> str:
    """The threads of this process, as they were measured; "" where they were not."""
    now = torch.get_num_threads()
    return "all" if now == tuning.machine.threads else "one" if now == 1 else ""


def _allowed(way: Way, section: RuntimeSection, tuning: Tuning, *, half: bool) -> bool:
    """Tells whether a recipe leaves room for a way."""
    precision = section.precision if half or section.precision != "auto" else "fp32"
    layout = {"on": "channels_last", "off": "contiguous"}.get(section.channels_last)
    now = _threads(tuning)
    threads = {"all", "one"} if section.threads is None and now == "all" else {now}
    return (
        precision in {"auto", way.precision}
        and layout in {None, way.layout}
        and way.threads in threads
    )


def _fastest(ways: Sequence[Way]) -> Way | None:
    return max(ways, key=lambda way: way.images_per_second, default=None)


def _reasons(
    best: Way, ways: Sequence[Way], tuning: Tuning, network: TunedNetwork
) -> tuple[str, str, str]:
    """Why precision, threads and layout are what they are: how much faster each was than the
    fastest way without it.
    """
    said = []
    for place, value in enumerate(best.key):
        other = _fastest([way for way in ways if way.key[place] != value])
        if other is None:
            said.append("")
            continue
        ratio = best.images_per_second / other.images_per_second
        said.append(
            f"auto: measured here on {tuning.date}, {ratio:.2f} times as fast as "
            f"{WORDS[other.key[place]]} with a network like {network.name}"
        )
    return said[0], said[1], said[2]


def _take(
    runtime: Runtime, section: RuntimeSection, best: Way, why: tuple[str, str, str], *, half: bool
) -> None:
    precision, threads, layout = why
    if precision and half and section.precision == "auto":
        runtime.set_precision(Choice(best.precision, precision))
    if threads and section.threads is None and best.threads == "one":
        runtime.set_threads(1, threads)
    if layout and section.channels_last == "auto":
        runtime.set_layout(best.layout == "channels_last", layout)


def _take_teachers(runtime: Runtime, section: RuntimeSection, tuning: Tuning) -> None:
    """The precision of teachers' copies, and the images that they answer at once."""
    measured = f"auto: measured here on {tuning.date}"
    of = f"on average of {len(tuning.teachers)} networks"
    gain = tuning.teachers_gain({"of": "bf16", "over": "fp32"})
    if gain is not None and section.teacher_precision == section.precision == "auto":
        value = "bf16" if gain >= 1 else "fp32"
        runtime.teacher_choice = Choice(
            value, f"{measured}, bf16 {gain:.2f} times as fast as fp32 {of}"
        )
    now = "bf16" if runtime.teacher_choice.value == "bf16" else "fp32"
    larger = tuning.teachers_gain({"of": f"{now}_large", "over": now})
    if larger is not None and section.teacher_batch is None:
        said = f"{measured}, {tuning.large} images at once {larger:.2f} times as fast {of}"
        runtime.teacher_images = Choice(str(tuning.large if larger >= GAIN else 0), said)


def keep(runtime: Runtime, settled: Settled) -> None:
    """Goes on as a run began."""
    why = "as the run began"
    if settled.precision is not None:
        runtime.set_precision(Choice(settled.precision, why))
    if settled.teacher_precision is not None:
        runtime.teacher_choice = Choice(settled.teacher_precision, why)
    if settled.channels_last is not None:
        runtime.set_layout(settled.channels_last, why)
    if settled.threads is not None and runtime.device.type == "cpu" and runtime.ranks.size == 1:
        runtime.set_threads(settled.threads, why)
    if settled.teacher_images is not None:
        runtime.teacher_images = Choice(str(settled.teacher_images), why)
