"""CUDA graphs: a device's work recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Recorder(Protocol):
    """Records graphs."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Note what `work` has the device do, without its being done; what is returned does it,
        each time it is called.
        """


class CudaRecorder:
    """CUDA graphs of one device in one pool of memory: one at a time is alive."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own is of the device that was current when it first captured
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # other threads may go on: those that pin memory for streamed data, say
        capture = torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        )
        with torch.cuda.device(self._device), capture:
            work()
        return graph.replay
