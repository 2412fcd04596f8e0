"""Every method on pictures without labels: those that read labels for more than the cross-entropy
say so, and to the others a label that is not there is none.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from kdcli import catalog
from kdcli.core import random
from kdcli.core.types import UNLABELLED
from tests.catalogue.test_methods import NAMES, method_class, phases, total

# options under which a method reads labels otherwise than with its own defaults
OTHERWISE = {"born_again": {"variant": "cwtm"}, "ofa_kd": {"eps": 1.5}}
NEED = [name for name in NAMES if catalog.entry("method", name).facts.get("labels_for")]
CE = re.compile(r"(\b|_)ce$")  # terms of the cross-entropy with labels


def losses(cls, options, setup, batch):
    with random.seeded(0, "method"):
        method = cls(options, setup)
    found = []
    for stage, at in phases(method):
        step = stage.loss(batch, at)
        total(step).backward()
        found.append({name: value.item() for name, value in step.losses.items()})
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NEED])
def test_a_label_that_is_missing_is_not_read(name, make_setup, batch):
    cls = method_class(name)
    setup = make_setup(cls)
    targets = torch.full_like(setup.data.targets, UNLABELLED)
    setup = replace(setup, data=replace(setup.data, targets=targets))
    none = replace(batch, y=torch.full_like(batch.y, UNLABELLED))
    labelled, unlabelled = (
        losses(cls, cls.Options(), make_setup(cls) if known else setup, given)
        for known, given in ((True, batch), (False, none))
    )
    for with_labels, without in zip(labelled, unlabelled, strict=True):
        for term, value in without.items():
            # nothing but cross-entropy changes, and it is 0
            assert value == (0 if CE.search(term) else pytest.approx(with_labels[term], 1e-5))


@pytest.mark.parametrize("name", sorted({*NEED, *OTHERWISE}))
def test_what_needs_labels_reads_them(name, make_setup, batch):
    """So that no method refuses pictures that it could learn from."""
    cls = method_class(name)
    options = cls.Options(**OTHERWISE.get(name, {}))
    assert cls.needs_labels(options)
    if not cls.teachers.most:
        return  # it has nothing but labels
    setup = make_setup(cls)
    moved = (batch.y + 1) % setup.data.num_classes
    shifted = replace(setup.data, targets=(setup.data.targets + setup.data.targets // 2) % 5)
    first = losses(cls, options, setup, batch)
    second = losses(cls, options, replace(make_setup(cls), data=shifted), replace(batch, y=moved))
    assert any(
        not CE.search(term) and value != pytest.approx(other[term], 1e-6)
        for one, other in zip(first, second, strict=True)
        for term, value in one.items()
    )
