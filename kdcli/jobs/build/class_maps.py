"""Class maps: a teacher of other classes answers with those of the data."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdcli.core.class_map import Groups, Names, groups_of, in_words
from kdcli.core.merged_classes import MergedClasses
from kdcli.core.network import Network
from kdcli.core.types import DataInfo

Given = Mapping[str, Sequence[str | int]]
_IMAGENET = 1000


class Mapped(NamedTuple):
    """A network that answers with the data's classes, and how.

    groups: its own classes of each of the data's; None where it has the data's already. words: what
    was understood, a line each.
    """

    network: Network
    groups: Groups | None = None
    words: tuple[str, ...] = ()


def mapped(network: Network, given: Given | None, theirs: Sequence[str], info: DataInfo) -> Mapped:
    """A network through a class map; itself where there is none.

    Args:
        given: by class of the data, classes of the network. theirs: the names of its classes.

    Raises:
        UsageError: as `groups_of`.
    """
    if given is None:
        return Mapped(network)
    groups = groups_of(given, info.class_names, theirs, lambda: _further(theirs))
    words = tuple(in_words(groups, info.class_names, theirs))
    return Mapped(MergedClasses(network, groups), groups, words)


def _further(theirs: Sequence[str]) -> Names:
    """Other names of ImageNet's thousand classes, where these are they: torchvision's, and, where
    timm is installed, its lists of synonyms and the numbers of WordNet, such as n02096051.
    """
    if len(theirs) != _IMAGENET or not theirs[0].startswith(("tench", "n01440764")):
        return ()
    from torchvision.models import ResNet18_Weights

    short = ResNet18_Weights.DEFAULT.meta["categories"]
    try:
        data: Any = importlib.import_module("timm.data")
    except ImportError:
        return [(name,) for name in short]
    info = data.ImageNetInfo("imagenet-1k")
    return list(zip(short, info.label_names(), info.label_descriptions(), strict=True))
