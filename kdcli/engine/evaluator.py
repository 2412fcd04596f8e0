"""One unaugmented pass over a split: the logits that every number about a network is computed from.

Always in float32, whatever training used: entropies and calibration errors are differences of small
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from kdcli.core.carried import Carried
from kdcli.core.types import Batch, filled_up
from kdcli.engine.memory import memory_errors

Forward = Callable[[Batch], Tensor]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own mode is put back afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def collect(
    forward: Forward,
    batches: Iterable[Batch],
    *,
    every: int = 1,
    seen: Callable[[Tensor, Tensor], None] | None = None,
    total: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits [n,K] float32 and targets [n] int64 of a split, on the CPU.

    Args:
        forward: logits [B,K] of a batch, for example `lambda batch: network(batch.x).logits`. It is
            asked about batches of one size: the last one is filled up, and cut again.
        batches: the split, in index order, the last one smaller or not.
        every: keep one row of so many; the others are seen and let go.
        seen: told the logits and targets of each batch, all rows of them, on the CPU.
        total: rows of the split, where that is known: what is kept of a long text then has its
            place from the beginning, and is not there twice when it is joined.

    Raises:
        OutOfMemory: a batch does not fit.
    """
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    place: Tensor | None = None
    rows = passed = filled = 0
    carried = Carried()
    with torch.inference_mode():
        for batch in batches:
            count = len(batch.y)
            rows = rows or count
            with _memory_errors(batch), carried.window(batch):
                found = forward(_filled_up(batch, rows))[:count].float()
            if seen is not None:
                seen(found.cpu(), batch.y.cpu())
            kept = slice(-passed % every, None, every)
            passed += count
            if every > 1 and total is not None:
                place = place if place is not None else _room(-(-total // every), found)
                part = found[kept]
                place[filled : filled + len(part)] = part
                filled += len(part)
            else:  # a view would keep the whole of what it is of
                logits.append(found if every == 1 else found[kept].clone())
            targets.append(batch.y[kept] if every == 1 else batch.y[kept].clone())
    if place is not None:
        return place[:filled], torch.cat(targets).cpu()
    if not logits:
        return torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
    # joined outside of inference mode, because a tensor that is made within cannot enter autograd
    # later
    return torch.cat(logits).cpu(), torch.cat(targets).cpu()


def _room(rows: int, like: Tensor) -> Tensor:
    """A place for so many rows on the CPU, for tensors that may enter autograd later."""
    with torch.inference_mode(mode=False):
        return torch.empty(rows, like.shape[1], dtype=like.dtype)


def _filled_up(batch: Batch, rows: int) -> Batch:
    if batch.window is not None:  # a text's last window, short or not, is the same each time
        return batch
    return batch.each(lambda part: filled_up(part, rows))


def _memory_errors(batch: Batch) -> AbstractContextManager[None]:
    size = len(batch.y)
    remedy = (
        f"-s data.eval_batch_size={max(size // 2, 1)} where something is trained, else --device cpu"
    )
    return memory_errors(batch.x.device, f"while measuring (batch {size}, fp32)", remedy)
