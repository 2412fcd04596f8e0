"""What a CUDA graph does, on the CPU: operations are noted with the very tensors and numbers that
they had, and done again as they were noted.

Everything that a graph forgets is forgotten here too: Python code between operations, numbers that
were read when the tape was made, attributes that were given another tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Tape:
    """A `kdcli.engine.cuda_graphs.Recorder`."""

    def __init__(self) -> None:
        self.replays: list[int] = []  # of each recording

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        notes = _Notes()
        with notes:
            work()
        notes.undo()
        place = len(self.replays)
        self.replays.append(0)

        def replay() -> None:
            self.replays[place] += 1
            notes.do()

        return replay


class Unable:
    """A device that cannot capture anything."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")


class _Notes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, list[Tensor], bool]] = []
        self._made: set[int] = set()  # memory that came to be while recording
        self._before: dict[
            int, tuple[Tensor, Tensor]
        ] = {}  # memory that was there, by its address: all of it, and what it held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # not all that an operation writes to is in its schema: batch norms' statistics
        for tensor in _tensors((args, kwargs)):
            self._keep(tensor)
        made = func(*args, **kwargs)
        fresh = (
            []
            if any(result.alias_info is not None for result in func._schema.returns)
            else _tensors(made)
        )
        self._made |= {tensor.untyped_storage().data_ptr() for tensor in fresh}
        self._calls.append((func, args, kwargs, fresh, torch.is_grad_enabled()))
        return made

    def _keep(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._made and storage.data_ptr() not in self._before:
            whole = torch.empty(0, dtype=torch.uint8).set_(storage)
            self._before[storage.data_ptr()] = (whole, whole.clone())

    def undo(self) -> None:
        """As if it had only been noted."""
        for whole, held in self._before.values():
            whole.copy_(held)
        self._before.clear()

    def do(self) -> None:
        with torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, fresh, grad in self._calls:
                with torch.set_grad_enabled(grad):  # convolutions choose their kernel by it
                    again = _tensors(func(*args, **kwargs))
                for tensor, value in zip(fresh, again, strict=bool(fresh)):
                    tensor.copy_(value)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]
