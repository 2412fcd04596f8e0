"""A checkpoint as a plain torch module, with what one has to know to ask it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from kdcli import catalog
from kdcli.core.network import Network
from kdcli.errors import BadCheckpoint
from kdcli.jobs.build import networks
from kdcli.recipe.schema import BOUNDS
from kdcli.results.preprocessing import Preprocessing
from kdcli.results.weights_header import CheckpointHeader
from kdcli.trust import trusting
from kdcli.typed import complaint


class Classifier(nn.Module):
    """A trained network: normalised pictures [B,C,H,W] float32 to logits [B,K].

    network: kd's own, with its taps. class_names: of the K logits, in order. preprocessing: how a
    picture becomes an input. checkpoint: the file that it is from. header: what that says.
    """

    def __init__(self, network: Network, checkpoint: Path, header: CheckpointHeader) -> None:
        super().__init__()
        self.network = network
        self.checkpoint = checkpoint
        self.header = header
        self.class_names = header.class_names
        self.preprocessing = preprocessing_of(checkpoint, header)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x).logits
        return logits


def load_network(run: str | Path, *, trust: bool = False) -> Classifier:
    """The network that a run made: normalised pictures [B,C,H,W] float32 to logits [B,K], in eval
    mode, on the CPU.

        network = load_network("runs/latest")
        probabilities = network(x).softmax(-1)

    Its `class_names` and `preprocessing` say what goes in and what comes out.

    Args:
        run: a run directory or a model.safetensors.
        trust: whether Python files run that the checkpoint names, and not the caller.

    Raises:
        NotFound: nothing is there. BadCheckpoint: it is damaged or not kd's. Untrusted: it names a
            Python file.
    """
    with trusting(everything=trust):
        network, header, path = networks.load_network(run)
    return Classifier(network, path, header).eval()


def preprocessing_of(path: Path, header: CheckpointHeader) -> Preprocessing:
    """How a picture becomes an input of a checkpoint's network: as its [data] says where these
    were picture files, else brought to the size that the network takes.

    Raises:
        BadCheckpoint: its header says what no picture can be.
    """
    options: Any = None
    data = catalog.entries("dataset").get(str(header.data.get("name")))
    if data is not None and data.facts.get("pictures"):
        kind = catalog.options_class(data)
        known = {
            key: header.data[key]
            for key in kind.model_fields
            if key in header.data and key not in BOUNDS
        }
        try:
            options = kind.model_validate(known)
        except ValidationError as error:
            raise BadCheckpoint(
                f"{path} says of its pictures what cannot be: {complaint(error)}",
                hint="train it again",
            ) from error
    return Preprocessing.of_data(header.input_shape, header.mean, header.std, options)
