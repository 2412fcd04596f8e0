"""Runtime: the whole of device, precision, memory layout and compilation, so that neither loop nor
methods mention them.

Each automatic choice travels with its reason, which the first screen and environment.json show.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch
from kdcli.engine.inference import InferenceTeacher
from kdcli.engine.memory import keep_memory, memory_errors
from kdcli.engine.ranks import Ranks
from kdcli.engine.recorder import CudaRecorder, Recorder
from kdcli.engine.settings import Precision
from kdcli.errors import DeviceUnavailable

Wanted = Literal["auto", "fp32", "bf16", "fp16"]

_TEACHER_IMAGES = 256
# without AMX mobilenet_v2 (30) and shufflenet_v2 (79) lose by bf16, resnet8 (142) and denser ones
# gain: docs/results/speed.md
_DENSE = 100
_NETWORKS = 1024  # that one process may compile
_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting and why it is what it is."""

    value: str
    reason: str


def choose_device(wanted: str, index: int = 0) -> Choice:
    """Resolve "auto", and refuse what this machine does not have.

    Args:
        index: of the CUDA device, where `wanted` names none.

    Raises:
        DeviceUnavailable: no such device here; the message says what there is.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return (
            Choice(f"cuda:{index}", "auto: a CUDA device is here")
            if count
            else Choice("cpu", "auto: no CUDA device here")
        )
    if wanted.startswith("cuda"):
        index = int(wanted.partition(":")[2] or index)
        if index >= count:
            have = (
                f"this machine has {count} CUDA devices"
                if count
                else "this machine has no CUDA device that torch can use"
            )
            raise DeviceUnavailable(
                f"device {wanted} was asked for, but {have}",
                hint="--device auto takes what there is",
            )
        return Choice(f"cuda:{index}", "asked for")
    return Choice(wanted, "asked for")


def choose_precision(wanted: Wanted, device: torch.device) -> Choice:
    """Resolve "auto": bf16 where the device computes it natively, float32 elsewhere.

    Weights, norms, the head and losses are float32 in either case;
    docs/results/speed-and-accuracy.md has what that costs.
    """
    if wanted != "auto":
        return Choice(wanted, "asked for")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:  # Ampere, the first with bf16 units
            return Choice("bf16", f"auto: compute capability {major}.{minor} >= 8.0")
        return Choice("fp32", f"auto: compute capability {major}.{minor} < 8.0 has no bf16")
    unit = cpu_unit() if device.type == "cpu" else None
    if unit is None:
        return Choice("fp32", f"auto: no bf16 units known on this {device.type}")
    return Choice("bf16", f"auto: this CPU has {unit}")


def choose_teacher_precision(wanted: Wanted, student: Wanted, device: torch.device) -> Choice:
    """Resolve "auto" of the teachers' copies: what was asked for the student, and bf16 where it is
    native if nothing was.
    """
    if wanted != "auto":
        return Choice(wanted, "asked for")
    return (
        Choice(student, "auto: as runtime.precision")
        if student != "auto"
        else choose_precision("auto", device)
    )


def choose_graphs(wanted: Literal["auto", "on", "off"], device: torch.device) -> Choice:
    """Resolve "auto": whether steps are replayed from CUDA graphs.

    Raises:
        DeviceUnavailable: it was asked for, and the device has none.
    """
    if wanted == "on" and device.type != "cuda":
        raise DeviceUnavailable(
            f"runtime.graphs is on, but only CUDA devices have graphs, and this job is on {device}",
            hint="leave it out",
        )
    if wanted != "auto":
        return Choice(wanted, "asked for")
    return Choice(
        "off",
        "auto: not measured on a GPU yet"
        if device.type == "cuda"
        else f"auto: a {device.type} has none",
    )


def choose_teacher_batch(
    wanted: int | None, batch_size: int, device: torch.device, *, graphs: bool = False
) -> Choice:
    """How many images teachers answer at once: whole minibatches, one of them at least. graphs:
    steps are replayed from them.
    """
    if wanted is not None:
        return Choice(str(max(wanted // batch_size, 1) * batch_size), "asked for")
    if graphs:
        return Choice(str(batch_size), "auto: it answers within the step that is replayed")
    if device.type == "cuda":
        return Choice(
            str(max(_TEACHER_IMAGES // batch_size, 1) * batch_size),
            f"auto: about {_TEACHER_IMAGES} images keep a GPU busy",
        )
    return Choice(str(batch_size), f"auto: larger batches gain nothing on a {device.type}")


def cpu_unit() -> Literal["AMX", "AVX512-BF16"] | None:
    """What computes bf16 in this CPU; None where torch would emulate it, which is slower than
    float32.
    """
    units: dict[Literal["AMX", "AVX512-BF16"], str] = {
        "AMX": "_is_amx_tile_supported",
        "AVX512-BF16": "_is_avx512_bf16_supported",
    }
    return next((unit for unit, probe in units.items() if getattr(torch.cpu, probe, bool)()), None)


class Runtime:
    """Where and in what precision a job computes.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:INDEX". index: of the CUDA device, where none is
            named.
        precision: of the networks' forward passes; losses, heads and the weights that are trained
            stay float32 in any case.
        teacher_precision: of the copies that answer for teachers, weights too.
        channels_last: memory layout of images and convolutions.
        graphs: whether steps are replayed from CUDA graphs, where they can be.
        threads: CPU threads; the process's own setting unless given.

    Raises:
        DeviceUnavailable: the device is not on this machine, or has no graphs.
    """

    def __init__(
        self,
        device: str = "auto",
        *,
        precision: Wanted = "auto",
        teacher_precision: Wanted = "auto",
        channels_last: Literal["auto", "on", "off"] = "auto",
        graphs: Literal["auto", "on", "off"] = "auto",
        threads: int | None = None,
        index: int = 0,
    ) -> None:
        self.device_choice = choose_device(device, index)
        self.device = torch.device(self.device_choice.value)
        self._wanted = precision
        self.precision_choice = choose_precision(precision, self.device)
        self.dtype = _DTYPES[self.precision_choice.value]  # type: ignore[index]
        self.teacher_choice = choose_teacher_precision(teacher_precision, precision, self.device)
        self.channels_last = channels_last != "off"
        self.compile_choice = Choice("off", "")
        self.teacher_batch_choice = Choice("", "")
        self.graphs_choice = choose_graphs(graphs, self.device)
        self.recorder: Recorder | None = (
            CudaRecorder(self.device) if self.graphs_choice.value == "on" else None
        )
        self.ahead = 1
        self._compiled_size = 0
        self._compiled: Sequence[tuple[Network, Any]] = ()
        if self.device.type == "cpu":
            keep_memory()
        if threads is not None:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        self.ranks = Ranks.current()
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    @property
    def weighs_networks(self) -> bool:
        """Whether the precision is still to be settled by `suit`."""
        return self._wanted == "auto" and self.device.type == "cpu" and cpu_unit() == "AVX512-BF16"

    def suit(self, density: float) -> None:
        """Take back an automatic bf16 where the network to be trained does too few multiply-adds
        for each value that it makes.
        """
        if self.weighs_networks and density < _DENSE:
            self.precision_choice = Choice(
                "fp32",
                (
                    f"auto: {density:.0f} multiply-adds a value; bf16 gains from {_DENSE} on "
                    "without AMX"
                ),
            )
            self.dtype = torch.float32

    @property
    def synchronous(self) -> bool:
        """Whether reading a value costs nothing, as on a CPU, and what it says needs no other
        rank's consent.
        """
        return self.device.type == "cpu" and self.ranks.size == 1

    def move(self, module: nn.Module) -> None:
        """Put a module on the device, in the layout that convolutions like."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        module.to(self.device, memory_format=layout)  # type: ignore[call-overload]

    def compile(
        self, choice: Choice, method: nn.Module, teachers: Iterable[Teacher], size: int
    ) -> None:
        """Compile what a method trains and what answers for its teachers, if the choice is "on".

        For minibatches of `size` images only, inside `stepping`: another size or an evaluation
        would compile everything once more and takes the usual path. torch compiles when the first
        minibatch comes.
        """
        self.compile_choice = choice
        if choice.value != "on":
            return
        # torch gives up on a function after eight, and all networks of a process share theirs: in a
        # sweep the ninth would go uncompiled
        torch._dynamo.config.recompile_limit = _NETWORKS  # noqa: SLF001
        torch._dynamo.config.accumulated_recompile_limit = 4 * _NETWORKS  # noqa: SLF001
        # that there is no CUDA compiler is no news on a CPU
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        self._compiled_size = size
        self._compiled = [
            (network, torch.compile(network.forward, dynamic=False))
            for network in _outermost(method)
        ]
        for teacher in teachers:
            if isinstance(teacher, InferenceTeacher):
                teacher.compile(
                    size * self.ahead,
                    options={"freezing": True} if self.device.type == "cpu" else None,
                )

    @contextmanager
    def stepping(self, batch: Batch) -> Iterator[None]:
        """Around a training step: where compiled code runs, if its batch has the usual size."""
        chosen = self._compiled if len(batch.y) == self._compiled_size else ()
        for network, forward in chosen:
            network.forward = forward  # type: ignore[method-assign]  # of this object, and only for now
        try:
            yield
        finally:
            for network, _ in chosen:
                del network.forward

    def look_ahead(self, wanted: int | None, batch_size: int) -> None:
        """Read so many minibatches ahead that teachers answer `wanted` images at once; an automatic
        number unless given.
        """
        graphs = self.graphs_choice.value == "on"
        self.teacher_batch_choice = choose_teacher_batch(
            wanted, batch_size, self.device, graphs=graphs
        )
        self.ahead = int(self.teacher_batch_choice.value) // batch_size

    def answering(self, teacher: Teacher) -> Teacher:
        """What answers training batches for a teacher: a faster copy of its network."""
        dtype = _DTYPES[self.teacher_choice.value]  # type: ignore[index]
        return InferenceTeacher(teacher, dtype, channels_last=self.channels_last)

    def place(self, batch: Batch) -> Batch:
        """A batch in the layout that the networks have."""
        if self.channels_last and batch.x.dim() == 4:
            return replace(batch, x=batch.x.contiguous(memory_format=torch.channels_last))
        return batch

    def seed(self, number: int) -> None:
        """Seed torch's global generators of the devices in use.

        torch.manual_seed seeds those of all kinds of devices, and writes down the stack for each
        that is not in use: half a millisecond.
        """
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index].manual_seed(number)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Backpropagate, scaled where float16 needs it."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimiser: torch.optim.Optimizer, clip_norm: float | None) -> None:
        """Clip, take the optimiser's step and clear the gradients."""
        if clip_norm is not None:
            self._scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(
                [p for group in optimiser.param_groups for p in group["params"]], clip_norm
            )
        self._scaler.step(optimiser)
        self._scaler.update()
        optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on in the same arithmetic."""
        return {"scaler": self._scaler.state_dict(), "threads": self.threads}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue with the scale and the number of threads of an earlier run: sums split otherwise
        round otherwise.
        """
        self._scaler.load_state_dict(state["scaler"])
        if self.device.type == "cpu" and state["threads"] != self.threads:
            torch.set_num_threads(state["threads"])
            self.threads = state["threads"]

    def device_name(self) -> str:
        """The device as a person would call it."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return (
            f"{platform.processor() or platform.machine()}, {self.threads} of {os.cpu_count()} "
            "threads"
        )

    def watch_memory(self) -> None:
        """Count the peak of memory from here on, where the system lets a process begin anew."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):  # Linux only; elsewhere `peak_memory_mib` says None
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def peak_memory_mib(self) -> float | None:
        """Most memory in use since `watch_memory`, MiB: tensors of a CUDA device, or this process
        on a CPU; None if unknown.
        """
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device)) / 2**20
        with contextlib.suppress(OSError, IndexError):
            status = Path("/proc/self/status").read_text(encoding="ascii")
            return int(status.split("VmHWM:")[1].split()[0]) / 2**10
        return None

    def memory_errors(self, context: str, remedy: str) -> AbstractContextManager[None]:
        """`kdcli.engine.memory.memory_errors` on this device."""
        return memory_errors(self.device, context, remedy)


def _outermost(module: nn.Module) -> Iterator[Network]:
    """Networks in a module that are not part of another one."""
    for child in module.children():
        if isinstance(child, Network):
            yield child
        else:
            yield from _outermost(child)
