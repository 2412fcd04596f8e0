"""What the ranks of test_launch do. Functions of a module, because other processes are given them
by name.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import torch

from kdcli.engine.distributed import Ranks
from kdcli.errors import KdError, NotWritable
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
    found["alike"] = ranks.every({name: value for name, value in found.items() if name != "heard"})
    return found


def _spread(ranks: Ranks, held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What rank 0 would write of the others, as all would read it."""
    written = ranks.differing(held)
    return ranks.from_first(lambda: written)


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
