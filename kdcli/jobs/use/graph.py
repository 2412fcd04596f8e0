"""A network as a graph of tensor operations, which other programs can run."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdcli.core.network import Network
from kdcli.data.source import pixel_statistics
from kdcli.errors import Incompatible
from kdcli.results.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch.export import ExportedProgram

PREFIX = "network."  # of the tensors of the network itself
_EXAMPLES = 2  # pictures; one would be taken for a batch that is always one


class Exportable(nn.Module):
    """What is exported of a network: [B,C,H,W] to logits [B,K].

    Args:
        pixels: how it normalises pixels, uint8, itself; None where it takes float32. tokens:
            whether it takes tokens of texts, int64.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: Network, pixels: Preprocessing | None = None, *, tokens: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.tokens = tokens
        self.pixels = pixels is not None
        if pixels is not None:
            mean, std = pixel_statistics(pixels.mean, pixels.std)
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if self.pixels:
            x = (x.float() - self.mean) / self.std
        logits: Tensor = self.network(x).logits
        return logits


def example(module: Exportable, input_shape: tuple[int, int, int]) -> Tensor:
    """A batch of inputs of a module, all 0."""
    dtype = torch.int64 if module.tokens else torch.uint8 if module.pixels else torch.float32
    return torch.zeros(_EXAMPLES, *input_shape, dtype=dtype)


def graph_of(module: Exportable, x: Tensor, name: str) -> ExportedProgram:
    """The operations of a module on a batch of any size.

    Args:
        x: an example. name: what a message calls the network.

    Raises:
        Incompatible: what it does depends on values, or on the size of a batch, or it changes
            itself.
    """
    from torch.export import Dim  # brings torch's compiler with it, over a second

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                module, (x,), dynamic_shapes={"x": {0: Dim("batch", min=1)}}
            )
    except Exception as error:  # whatever a stranger's forward raises, and the tracer's own errors
        first_line, _, _ = str(error).strip().partition("\n")
        raise Incompatible(
            f"{name} cannot be written as a graph: {type(error).__name__}: {first_line[:200]}",
            hint="its forward must do the same for all pictures and for batches of any size",
        ) from error
    if program.graph_signature.buffers_to_mutate:
        raise Incompatible(
            f"{name} changes its own tensors as it answers: no other program can do that",
            hint="leave buffers as they are in eval mode",
        )
    return program
