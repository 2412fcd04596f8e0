"""What notes the work of a device to have it done again: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Recorder(Protocol):
    """What makes graphs."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Note what `work` has the device do, without its being done; what is returned does it, each time it is called."""


class CudaRecorder:
    """CUDA graphs in one pool of memory: one at a time is alive."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # other threads may go on: those that pin memory for streamed data, say
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        return graph.replay
