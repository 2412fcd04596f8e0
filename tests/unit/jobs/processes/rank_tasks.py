"""What the ranks of test_launch do. Functions of a module, because other processes are given them
by name.
"""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Output
from kdcli.engine.distributed import Ranks
from kdcli.engine.runtime import Runtime
from kdcli.engine.teachers.inference import InferenceTeacher
from kdcli.engine.teachers.sharded import share_held
from kdcli.errors import Incompatible, KdError, NotWritable
from kdcli.jobs import build_network
from kdcli.jobs.events import Listener


def talk(*, listeners: Sequence[Listener]) -> dict[str, Any]:
    """Everything that ranks say to each other."""
    ranks = Ranks.current()
    found: dict[str, Any] = {
        "size": ranks.size,
        "heard": len(listeners),
        "threads": torch.get_num_threads(),
    }
    own = torch.arange(3 - ranks.rank).float() + 10 * ranks.rank  # parts of five samples
    found["gathered"] = ranks.gather(own.requires_grad_()).tolist()
    found["total"] = float(ranks.total(torch.tensor(1.0 + ranks.rank)))
    found["most"] = ranks.most(7 * ranks.rank)
    found["every"] = ranks.every(f"rank {ranks.rank}")
    found["made"] = ranks.from_first(lambda: f"by {ranks.rank}")
    found["refused"] = "by nobody"
    try:
        ranks.from_first(_refuse)
    except NotWritable as error:
        found["refused"] = f"{error.message} ({error.hint})"
    held = {"same": torch.zeros(2), "other": torch.full((2,), float(ranks.rank))}
    state = ranks.from_first(lambda: held) | ranks.from_first(dict) | _spread(ranks, held)
    found["restored"] = ranks.every(ranks.own(state)["other"].tolist())
    found["state"] = sorted(state)
    found["shared"] = ranks.every(_share_a_teacher(ranks))
    found["alike"] = ranks.every({name: value for name, value in found.items() if name != "heard"})
    return found


def _spread(ranks: Ranks, held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What rank 0 would write of the others, as all would read it."""
    written = ranks.differing(held)
    return ranks.from_first(lambda: written)


class Odd(Network):
    """Reads the weights of a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.taps = {}

    def forward(self, x: torch.Tensor, taps: tuple[str, ...] = ()) -> Output:
        return Output(self.head(nn.functional.linear(x, self.first.weight)), {})

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        raise NotImplementedError(upto)


def _share_a_teacher(ranks: Ranks) -> dict[str, Any]:
    """Each rank holds a part of teachers, which answer as a whole one does."""
    found: dict[str, Any] = {}
    draw = torch.Generator().manual_seed(0)
    for name, size in (("resnet8", 32), ("vit-mini", 16)):
        network = build_network(name, num_classes=10, input_shape=(3, size, size))
        images = torch.randn(7, 3, size, size, generator=draw)
        batch = Batch(images, *(torch.arange(7) * scale for scale in (0, 1, 0)))
        whole = InferenceTeacher(
            Teacher(copy.deepcopy(network)), torch.bfloat16, channels_last=True, rows=2
        )
        whole.network.to(memory_format=torch.channels_last)
        runtime = Runtime("cpu", teacher_precision="bf16", shard_teacher=True)
        runtime.teacher_rows = 2
        divided = runtime.answering(Teacher(network))
        assert isinstance(divided, InferenceTeacher)
        # one rank has more to ask than the other
        part = batch.each(lambda rows: rows[: 5 if ranks.first else 2])
        tap = next(iter(network.taps))
        equal = [
            torch.equal(whole(part).logits, divided(part).logits),
            torch.equal(whole(part, (tap,)).taps[tap], divided(part, (tap,)).taps[tap]),
        ]
        # the first asks alone, in any mode
        with torch.inference_mode():
            alone = runtime.ranks.from_first(lambda: divided.live(batch, (tap,)).logits)  # noqa: B023  called here
        equal.append(torch.equal(alone, whole.live(batch).logits))
        found[name] = equal
        found[f"{name} held"] = share_held(network)
        found[f"{name} head"] = type(network.head.weight) is nn.Parameter
    odd = Runtime("cpu", shard_teacher=True).answering(Teacher(Odd()))
    try:
        odd(Batch(torch.zeros(2, 8), *[torch.zeros(2, dtype=torch.int64)] * 3))
    except Incompatible as error:
        found["odd"] = error.message
    return found


def _refuse() -> None:
    raise NotWritable("cannot write", hint="elsewhere")


def fail(*, who: Sequence[int], how: str, listeners: Sequence[Listener]) -> str:
    """Some ranks fail; the others wait for them."""
    ranks = Ranks.current()
    if ranks.rank in who:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hung":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        raise KdError("odd", hint="try again") if how == "known" else ValueError("odd")
    ranks.most(0)
    return "done"


def fail_and_hang(*, listeners: Sequence[Listener]) -> None:
    """Rank 1 fails, rank 0 notices, and rank 2 is deaf."""
    rank = Ranks.current().rank
    fail(who=(1, 2), how="hung" if rank == 2 else "known", listeners=listeners)
