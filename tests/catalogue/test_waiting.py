"""On a CUDA device nothing in a step waits for the device: counted here on the CPU, for every
method, through the real trainer.
"""

from __future__ import annotations

import itertools
from unittest.mock import PropertyMock, patch

import numpy as np
import pytest
import torch

from kdcli import catalog
from kdcli.data.augment import Augmentation
from kdcli.data.open_feed import make_feed
from kdcli.data.source import ImageArrays
from kdcli.engine.events import StepDone
from kdcli.engine.host_sync import Waits
from kdcli.engine.runtime import Runtime
from kdcli.engine.trainer import Hooks
from tests.catalogue.test_methods import method_class
from tests.catalogue.training import make_trainer


def waits_within_epochs(trainer, steps):
    """Places where the host waited between two steps of one epoch."""
    with (
        patch.object(Runtime, "synchronous", new_callable=PropertyMock, return_value=False),
        Waits() as waits,
    ):
        seen = []
        steps.append(lambda event: seen.append((event.at.stage, event.at.epoch, len(waits.places))))
        trainer.run()
    found = []
    for (stage, epoch, before), (other, later, after) in itertools.pairwise(seen):
        if (stage, epoch) == (other, later):
            found += waits.places[before:after]
    assert len(seen) > 2
    return sorted(set(found))


@pytest.mark.parametrize("name", catalog.names("method"))
def test_no_step_waits_for_the_device(name, make_setup):
    listeners = []
    hooks = Hooks(
        listeners=[
            lambda event: (
                [listener(event) for listener in listeners] if isinstance(event, StepDone) else None
            )
        ]
    )
    assert (
        waits_within_epochs(make_trainer(method_class(name), make_setup, hooks=hooks), listeners)
        == []
    )


@pytest.mark.parametrize(
    "augment",
    [Augmentation(), Augmentation(crop=2, flip=True), Augmentation(crop=2, padding="reflect")],
)
def test_no_batch_of_resident_pictures_waits_for_the_device(augment):
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (24, 1, 8, 8), dtype=np.uint8))
    labels = torch.arange(24) % 3
    source = ImageArrays(pixels, labels, pixels[:6], labels[:6], ("a", "b", "c"), (0.5,), (0.25,))
    feed = make_feed(
        source,
        name="noise",
        batch_size=8,
        eval_batch_size=8,
        val_fraction=0,
        train_limit=None,
        augment=augment,
        seed=0,
        device="cpu",
        workers=0,
    )
    batches = iter(feed.train(1))
    next(batches)
    with Waits() as waits:
        assert len(list(batches)) == 2
    assert waits.places == []


def test_the_count_sees_what_waits():
    mask = torch.tensor([True, False])
    values = torch.tensor([1.0, 2.0])
    for wait in (
        values[0].item,
        lambda: bool(values[0] > 0),
        lambda: values[mask],
        values.tolist,
        mask.nonzero,
        lambda: float(values.sum()),
        lambda: torch.where(mask, values, 0.0),
    ):
        with Waits() as waits:
            wait()
        assert len(waits.places) >= 1
    with Waits() as waits:
        values.masked_fill(mask, 0.0).sum()
    assert waits.places == []
