"""The data that a trained network is for: what it was trained on, or what is named instead."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from kdcli.core.types import Feed
from kdcli.errors import Incompatible
from kdcli.jobs.build import sights
from kdcli.jobs.build.datasets import open_feed
from kdcli.jobs.use.network import Classifier
from kdcli.recipe import measured_data
from kdcli.recipe.reading.layers import Layer
from kdcli.trust import named_by


@dataclass(frozen=True, slots=True)
class Images:
    """Images as a network sees them. called: as messages say it."""

    feed: Feed
    called: str


def open_images(network: Classifier, asked: Layer) -> Images:
    """The data of a network, or those that were asked for, in its own pixels.

    Raises:
        Incompatible: the network takes no such inputs. Others: as
            kdcli.recipe.measured_data.section_of and `open_feed`.
    """
    header, taken = network.header, network.preprocessing.input_shape
    with named_by(f"the header of {network.checkpoint}"):
        section = measured_data.section_of(network.checkpoint, header, asked)
        feed = open_feed(
            section,
            device=torch.device("cpu"),
            seed=header.seed,
            sight=replace(sights.of_header(network.checkpoint, header), channels=None),
            class_names=lambda: header.class_names,
        )
    called = measured_data.label_of(section, asked)
    if feed.info.input_shape != taken:
        found, wanted = ("x".join(map(str, each)) for each in (feed.info.input_shape, taken))
        raise Incompatible(f"{called} has inputs of {found}, the network takes {wanted}")
    return Images(feed, called)
