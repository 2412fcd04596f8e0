"""Counts what would make the host wait for a CUDA device, on any device: reads of values, and operations whose size depends on values."""

from __future__ import annotations

import traceback
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_OPERATIONS = {
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    aten.nonzero,
    aten.masked_select,
    aten.bincount,
    aten.unique_consecutive,
    aten.unique_dim,
    aten._unique2,
    aten.repeat_interleave,
}
_METHODS = {Tensor.tolist, Tensor.numpy, Tensor.cpu}


class Waits(TorchDispatchMode):
    """While it is on, `places` collects where the host would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self._calls = _Calls(self)

    def note(self, what: object) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/kdcli/" in frame.filename]
        last = frames[-1] if frames else traceback.extract_stack()[0]
        self.places.append(f"{what} in {last.filename.rpartition('/kdcli/')[2]}:{last.lineno}")

    def __enter__(self) -> Self:
        self._calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if func.overloadpacket in _OPERATIONS or by_mask:
            self.note(func)
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    """Reads that never reach the dispatcher on a CPU."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _METHODS:
            self._waits.note(getattr(func, "__name__", func))
        return func(*args, **(kwargs or {}))
