"""Forms in which a network can be run besides PyTorch, operation by operation: compiled, and as an
ONNX file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from kdcli.core.network import Network
from kdcli.errors import UsageError
from kdcli.jobs.build import compiling
from kdcli.jobs.use import formats
from kdcli.jobs.use.graph import Exportable
from kdcli.jobs.use.onnx_file import open_onnx
from kdcli.results.cost import Form
from kdcli.results.preprocessing import Preprocessing

Ask = Callable[[Tensor], object]
_NAME = "network"  # inside a file that is only timed


@contextmanager
def in_form(form: Form, network: Network, image: Tensor) -> Iterator[tuple[Ask, Tensor]]:
    """A network in a form, and an image [1,C,H,W] where that takes it.

    Args:
        form: "compiled" by torch.compile, on the image's device, for one size of batch at a time;
            "onnx", by onnxruntime on the CPU.

    Raises:
        KdError, or whatever the compiler raises: it cannot be had in this form.
    """
    if form == "onnx":
        _, channels, height, width = image.shape
        with tempfile.TemporaryDirectory(prefix="kd-onnx-") as folder:
            path, like = Path(folder) / "network.onnx", next(network.parameters())
            network.cpu()
            try:
                how = Preprocessing.of_data((channels, height, width), (), ())  # nobody reads it
                work = formats.Work(Exportable(network), _NAME, {}, _NAME, formats.OPSET, how)
                formats.write("onnx", path, work)
            finally:
                network.to(like.device)
            yield formats.read("onnx", path), image.cpu()
    elif form == "compiled":
        compiling.prepare_cache()
        compiled: Ask = torch.compile(Exportable(network), dynamic=False)
        yield compiled, image
    else:
        raise UsageError(f"{form} is no form of a network that is not a file")


def int8_beside(checkpoint: str | Path) -> Path | None:
    """The ONNX file of 8-bit integers that `kd export` has put beside a checkpoint, if it has."""
    path = Path(checkpoint)
    found = sorted(path.parent.glob(f"{path.stem}*int8*.onnx")) if path.is_file() else []
    return found[0] if found else None


def of_file(path: Path, image: Tensor) -> tuple[Ask, Tensor]:
    """An ONNX file of kd, and an image [1,C,H,W] as it takes it.

    Raises:
        UsageError: onnxruntime is not installed. BadCheckpoint: it is no such file.
    """
    ask, texts = open_onnx(path)
    pixels = texts.get("input") == "uint8"
    return ask, image.cpu().to(torch.uint8) if pixels else image.cpu()
