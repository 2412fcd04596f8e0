"""Notices what makes the host wait for a CUDA device, on any device: reads of values, and
operations whose size depends on values.

Such a step cannot be captured as a CUDA graph, and costs time where it is not.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_OPERATIONS = {
    aten._local_scalar_dense,  # noqa: SLF001  its only name
    aten.equal,
    aten.is_nonzero,
    aten.nonzero,
    aten.masked_select,
    aten.bincount,
    aten.unique_consecutive,
    aten.unique_dim,
    aten._unique2,  # noqa: SLF001
    aten.repeat_interleave,
    aten._linalg_check_errors,  # noqa: SLF001
}
_BY_INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
_TORCH = Path(torch.__file__).parent
_CHOICES = {torch.where, Tensor.where}
_FUNCTIONS = {Tensor.tolist, Tensor.numpy, Tensor.cpu}


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, `places` collects where the host would have waited: the operation, and the
    line of kd that asked for it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places: list[str] = []
        self._calls = _Calls(self)

    def note(self, what: object) -> None:
        """The host waits now."""
        frames = [
            frame
            for frame in traceback.extract_stack()
            if frame.filename != __file__ and _TORCH not in Path(frame.filename).parents
        ]
        self.places.append(
            f"{what} in {frames[-1].filename.rpartition('/kdcli/')[2]}:{frames[-1].lineno}"
        )

    def __enter__(self) -> Self:
        self._calls.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._calls.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func.overloadpacket in _BY_INDEX and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in _OPERATIONS or by_mask or _crosses(args, made):
            self.note(func)
        return made


def _crosses(args: Any, made: Any) -> bool:
    """Tells whether values went from one kind of device to another."""
    sources = [
        argument.device.type
        for argument in args
        if isinstance(argument, Tensor) and argument.dim() > 0
    ]
    return isinstance(made, Tensor) and bool(sources) and made.device.type not in sources


class _Calls(TorchFunctionMode):
    """Reads and writes that never reach the dispatcher as such."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        constant = func is torch.tensor and made.device.type != "cpu"
        # torch copies numbers that are to be chosen to the device, and waits for that
        chosen = func in _CHOICES and any(isinstance(argument, int | float) for argument in args)
        if func in _FUNCTIONS or constant or chosen:
            self._waits.note(getattr(func, "__name__", func))
        return made
