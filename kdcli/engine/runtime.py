"""Runtime: the whole of device, precision, memory layout and compilation, so that neither loop nor
methods mention them.

Each automatic choice travels with its reason, which the first screen and environment.json show.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch
from kdcli.engine import hardware
from kdcli.engine.cuda_graphs import CudaRecorder, Recorder
from kdcli.engine.distributed import Ranks
from kdcli.engine.hardware import (
    Choice,
    Wanted,
    choose_device,
    choose_graphs,
    choose_precision,
    choose_teacher_batch,
    choose_teacher_precision,
)
from kdcli.engine.memory import keep_memory, memory_errors
from kdcli.engine.settings import Precision
from kdcli.engine.teachers.inference import InferenceTeacher
from kdcli.engine.teachers.sharded import shard

# without AMX mobilenet_v2 (30) and shufflenet_v2 (79) lose by bf16, resnet8 (142) and denser ones
# gain: docs/results/speed.md
_DENSE = 100
_NETWORKS = 1024  # that one process may compile
_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class Runtime:
    """The device and precision of a job, and all that depends on them.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:INDEX". index: of the CUDA device, where none is
            named.
        precision: of the networks' forward passes; losses, heads and the weights that are trained
            stay float32 in any case.
        teacher_precision: of the copies that answer for teachers, weights too.
        channels_last: memory layout of images and convolutions.
        graphs: whether steps are replayed from CUDA graphs, where they can be.
        threads: CPU threads; the process's own setting unless given.
        shard_teacher: whether ranks hold a part of each teacher, where there are several.

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
        shard_teacher: bool = False,
    ) -> None:
        self.device_choice = choose_device(device, index)
        self.device = torch.device(self.device_choice.value)
        self._wanted = precision
        self.precision_choice = choose_precision(precision, self.device)
        self.dtype = _DTYPES[self.precision_choice.value]  # type: ignore[index]
        self.teacher_choice = choose_teacher_precision(teacher_precision, precision, self.device)
        self.channels_last = channels_last != "off"
        self.layout_choice = Choice("", "")
        self.threads_choice = Choice("", "")
        self.teacher_images: Choice | None = None  # at once, where it was measured
        self.untuned = ""  # why a measurement that is there is not used
        self.compile_choice = Choice("off", "")
        self.compile_expected: float | None = None  # seconds
        self.teacher_batch_choice = Choice("", "")
        self.graphs_choice = choose_graphs(graphs, self.device)
        self.recorder: Recorder | None = (
            CudaRecorder(self.device) if self.graphs_choice.value == "on" else None
        )
        self.ahead = 1
        self.teacher_rows: int | None = None
        self._compiled_size = 0
        self._compiled: Sequence[tuple[Network, Any]] = ()
        if self.device.type == "cpu":
            keep_memory()
        _OwnThreads.give_back()
        if threads is not None:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        self.ranks = Ranks.current()
        self.shards = shard_teacher and self.ranks.size > 1
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    @property
    def weighs_networks(self) -> bool:
        """Tells whether the precision is still to be settled by `suit`."""
        return (
            self._wanted == "auto"
            and self.device.type == "cpu"
            and hardware.cpu_unit() == "AVX512-BF16"
        )

    def suit(self, density: float) -> None:
        """Takes back an automatic bf16 where the network to be trained does too few multiply-adds
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

    def set_precision(self, choice: Choice) -> None:
        """Computes in another precision. Before anything is built or computed, as all of these."""
        self.precision_choice = choice
        self.dtype = _DTYPES[choice.value]  # type: ignore[index]
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def set_layout(self, channels_last: bool, reason: str) -> None:  # noqa: FBT001  a setting
        """Has images in another memory layout."""
        self.channels_last = channels_last
        self.layout_choice = Choice("channels_last" if channels_last else "contiguous", reason)

    def set_threads(self, threads: int, reason: str) -> None:
        """Computes on another number of CPU threads."""
        self.threads_choice = Choice(str(threads), reason)
        if threads != self.threads:
            _OwnThreads.lend(self.threads, threads)
            torch.set_num_threads(threads)
            self.threads = threads

    @property
    def synchronous(self) -> bool:
        """Tells whether reading a value costs nothing, as on a CPU, and what it says needs no other
        rank's consent.
        """
        return self.device.type == "cpu" and self.ranks.size == 1

    def move(self, module: nn.Module) -> None:
        """Puts a module on the device, in the layout that convolutions like."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        module.to(self.device, memory_format=layout)  # type: ignore[call-overload]

    def compile(
        self, choice: Choice, method: nn.Module, teachers: Iterable[Teacher], size: int
    ) -> None:
        """Compiles what a method trains and what answers for its teachers, if the choice is "on".

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
            # torch's compiler cannot look through gathers
            if isinstance(teacher, InferenceTeacher) and not self.shards:
                teacher.compile(options={"freezing": True} if self.device.type == "cpu" else None)

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
        """Reads so many minibatches ahead that teachers answer `wanted` images at once; an
        automatic number unless given. They are asked in blocks of that size and no other, on every
        rank the largest part of it.
        """
        graphs = self.graphs_choice.value == "on"
        measured = self.teacher_images
        self.teacher_batch_choice = (
            choose_teacher_batch(wanted, batch_size, self.device, graphs=graphs)
            if measured is None or wanted is not None
            else Choice(
                str(max(int(measured.value) // batch_size, 1) * batch_size), measured.reason
            )
        )
        self.ahead = int(self.teacher_batch_choice.value) // batch_size
        self.teacher_rows = self.ranks.largest_part(batch_size) * self.ahead

    def answering(self, teacher: Teacher) -> Teacher:
        """A faster copy of a teacher's network, which answers training batches; where ranks hold
        parts of teachers, of both a part.
        """
        dtype = _DTYPES[self.teacher_choice.value]  # type: ignore[index]
        made = InferenceTeacher(
            teacher,
            dtype,
            channels_last=self.channels_last,
            rows=self.teacher_rows,
            agree=self.agree,
        )
        if self.shards:
            last = self.channels_last
            made.shard(lambda net: shard(net, self.device, self.ranks, channels_last=last))
        return made

    def agree(self, number: int) -> int:
        """The largest of the ranks' numbers where they must ask teachers together, of which each
        holds a part; else the number.
        """
        together = self.shards and not self.ranks.following.leads
        return self.ranks.most(number) if together else number

    def move_teacher(self, network: Network) -> None:
        """Puts a teacher on the device; not yet where `answering` will leave a part of it there."""
        if not self.shards:
            self.move(network)

    def place(self, batch: Batch) -> Batch:
        """A batch in the layout that the networks have."""
        if batch.x.dim() != 4:
            return batch
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return batch.pictures(lambda x: x.contiguous(memory_format=layout))

    def seed(self, number: int) -> None:
        """Seeds torch's global generators of the devices in use.

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
        """Backpropagates, scaled where float16 needs it."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimiser: torch.optim.Optimizer, clip_norm: float | None) -> None:
        """Clips, takes the optimiser's step and clears the gradients."""
        if clip_norm is not None:
            self._scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(
                [p for group in optimiser.param_groups for p in group["params"]], clip_norm
            )
        self._scaler.step(optimiser)
        self._scaler.update()
        optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """The state that a resumed run needs to go on in the same arithmetic."""
        return {"scaler": self._scaler.state_dict(), "threads": self.threads}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues with the scale and the number of threads of an earlier run: sums split
        otherwise round otherwise.
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
        """Counts the peak of memory from here on, where the system lets a process begin anew."""
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


class _OwnThreads:
    """The number of threads that this process had before a choice for one job: the next job, such
    as a sweep's next cell, begins with it.
    """

    lent: tuple[int, int] | None = None  # before, and since

    @classmethod
    def lend(cls, before: int, since: int) -> None:
        """Notes that a job has another number."""
        cls.lent = (before if cls.lent is None else cls.lent[0], since)

    @classmethod
    def give_back(cls) -> None:
        """Sets the number as it was, unless somebody else has set it since."""
        if cls.lent is not None and cls.lent[1] == torch.get_num_threads():
            torch.set_num_threads(cls.lent[0])
        cls.lent = None


def nothing_compiled() -> AbstractContextManager[None]:
    """Within, no code runs that torch.compile made. Where this process has not even imported the
    compiler there is none, and to say so would import it, which takes more than a second.
    """
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def _outermost(module: nn.Module) -> Iterator[Network]:
    """Networks in a module that are not part of another one."""
    for child in module.children():
        if isinstance(child, Network):
            yield child
        else:
            yield from _outermost(child)
