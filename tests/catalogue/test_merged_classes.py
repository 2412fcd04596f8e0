"""Every method under a teacher whose classes are merged: it trains, or says before training why it
cannot.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from kdcli.core.merged_classes import MergedClasses
from kdcli.core.teacher import Teacher
from kdcli.errors import Incompatible
from tests.catalogue.conftest import CLASSES, tiny, tiny_transformer
from tests.catalogue.test_methods import every_method, method_class, phases, total

GROUPS = ((0, 6), (3,), (2, 1), (8,), (4, 5))  # class 7 is left out
HEAD = {
    "ca_mkd",
    "srrl",
    "simkd",
    "cat_kd",
    "kd_sim",
    "kd_pt_sim",
}  # they read the last layer of their teacher


def merged(teacher: Teacher) -> Teacher:
    tokens = "block1" in teacher.network.taps
    network = tiny_transformer(8, 7) if tokens else tiny(teacher.network.head.in_features // 4, 7)
    network.head = nn.Linear(network.head.in_features, 9)
    assert len(GROUPS) == CLASSES
    return Teacher(MergedClasses(network, GROUPS))


@every_method
def test_a_step_or_a_sentence(name, make_setup, batch):
    cls = method_class(name)
    setup = make_setup(cls)
    plain = setup.load
    setup = replace(
        setup,
        teachers=tuple(map(merged, setup.teachers)),
        load=lambda path: merged(plain(path)),
    )
    if name in HEAD:
        with pytest.raises(Incompatible, match="tells its own classes apart"):
            cls(cls.Options(), setup)
        return
    method = cls(cls.Options(), setup)
    for stage, at in phases(method):
        total(stage.loss(batch, at)).backward()
