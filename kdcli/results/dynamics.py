"""Records of training dynamics: a few networks on the same images, before the first step and after
each epoch.

Entropies are in nats, accuracy is a fraction. Standard library only: reports read these without
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kdcli.results.gap import GapAt


@dataclass(frozen=True, slots=True)
class EnergiesAt:
    """One network at one temperature: means over the probe's images, logits centred per sample.

    kl: mean KL(q || p) of this network's softmax q to p, that of the network in training: how far
    that one is from these answers. None for the network in training itself.
    """

    temperature: float
    entropy: float
    free_energy: float
    kl: float | None = None


@dataclass(frozen=True, slots=True)
class NetworkSnapshot:
    """One network. accuracy: None of images without labels. logit_norm: mean L2 norm of centred
    logits. at: temperature 1, then the report's others.
    """

    accuracy: float | None
    logit_norm: float
    at: tuple[EnergiesAt, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was measured at one moment of training.

    n images of a split, the same ones all along. trained: the one of `networks` that the stage
    trains and shows: "student" ("network" without a teacher's recipe), or the name of a helper.
    Beside it stand "teacher", or "reference", where there is one, and the networks that the method
    watches. gaps: of `trained` to the teacher, raw, and as the method's loss sees them.
    """

    split: Literal["train", "val"]
    n: int
    trained: str
    networks: Mapping[str, NetworkSnapshot]
    gaps: tuple[GapAt, ...] = ()
