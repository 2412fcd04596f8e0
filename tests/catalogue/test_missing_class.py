"""Every method trains where a class is missing: its loss stays finite, and nothing it keeps by
sample or class is off by one.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdcli import catalog
from kdcli.core import random
from kdcli.core.types import Feed
from kdcli.data.augment import Augmentation
from kdcli.data.open_feed import make_feed
from kdcli.data.source import ImageArrays
from kdcli.data.subset import Restriction
from tests.catalogue.conftest import CLASSES, SHAPE
from tests.catalogue.test_methods import method_class, phases, total

IMAGES, MISSING, PER_CLASS = 40, 2, 4


@pytest.fixture(scope="module")
def feed() -> Feed:
    """Four images of each class but one, of a training set of eight a class; minibatches of
    eight.
    """
    counters = torch.arange(2 * IMAGES * 3 * 8 * 8)
    pixels = (
        random.integers(random.key(0, "pixels"), counters, 256)
        .to(torch.uint8)
        .view(2 * IMAGES, *SHAPE)
    )
    y = torch.arange(IMAGES) % CLASSES
    source = ImageArrays(
        pixels[:IMAGES],
        y,
        pixels[IMAGES:],
        y,
        tuple("abcde"),
        (0.5,) * 3,
        (0.5,) * 3,
        superclass=torch.tensor([0, 0, 1, 1, 1]),
    )
    return make_feed(
        source,
        name="tiny",
        batch_size=8,
        eval_batch_size=8,
        val_fraction=0.0,
        train_limit=None,
        augment=Augmentation(flip=True),
        seed=0,
        device="cpu",
        workers=0,
        restriction=Restriction((MISSING,), PER_CLASS),
    )


@pytest.mark.parametrize("name", catalog.names("method"))
def test_a_method_does_without_a_class(name, make_setup, feed):
    cls = method_class(name)
    method = cls(cls.Options(), replace(make_setup(cls), data=feed.info))
    assert torch.bincount(feed.info.targets, minlength=CLASSES).tolist() == [4, 4, 0, 4, 4]
    for stage, at in phases(method):
        for batch in feed.train(1):
            step = stage.loss(batch, at)
            assert total(step).isfinite()
            assert step.logits.shape == (8, CLASSES)
            total(step).backward()
        gradients = [
            parameter.grad for parameter in method.parameters() if parameter.grad is not None
        ]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)
