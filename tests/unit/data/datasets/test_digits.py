"""The digits are scikit-learn's, read without importing it."""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits

from kdcli.core.options import Options
from kdcli.data.datasets import digits


def test_pictures_and_labels_are_those_of_scikit_learn():
    source = digits.load("digits", options=Options(), root=Path())
    ours = torch.cat([source.x_train, source.x_test])[:, 0].double() * 16 / 255
    theirs = torch.from_numpy(load_digits().images)
    assert sorted(ours.round().flatten(1).tolist()) == sorted(theirs.flatten(1).tolist())
    by_picture = {
        tuple(image.flatten().tolist()): label
        for image, label in zip(theirs, load_digits().target, strict=True)
    }
    labels = torch.cat([source.y_train, source.y_test]).tolist()
    assert [by_picture[tuple(image.flatten().tolist())] for image in ours.round()] == labels
