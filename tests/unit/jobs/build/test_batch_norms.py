"""Minibatches of one image are refused where batch norms could not be trained with them."""

from __future__ import annotations

import pytest

from kdcli.errors import Incompatible
from kdcli.jobs import train_teacher


@pytest.mark.parametrize(
    ("model", "options", "images", "batch_size", "problem"),
    [
        ("cnn-small", {}, 20, 1, "batch norms would take each image"),
        (
            "mlp",
            {"model.norm": "batch"},
            21,
            4,
            "the last minibatch of an epoch would have 1 of 21",
        ),
        ("mlp", {}, 20, 1, None),  # it has none
        ("mlp", {"model.norm": "batch"}, 22, 4, None),
        ("cnn-small", {}, 21, 4, None),  # its norms see many pixels of one image
    ],
)
def test_a_minibatch_of_one(tmp_path, model, options, images, batch_size, problem):
    overrides = {
        "data.train_limit": images,
        "train.batch_size": batch_size,
        "report.html": False,
        "report.probe": 0,
        **options,
    }

    def train():
        return train_teacher(
            model=model, data="digits", epochs=1, out=tmp_path / "runs", overrides=overrides
        )

    if problem is None:
        assert train().epochs == 1
        return
    with pytest.raises(Incompatible) as caught:
        train()
    assert problem in caught.value.message
    assert not (tmp_path / "runs").exists()
