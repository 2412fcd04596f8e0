"""A run that is left after an epoch, and gone on with, is the run that never was."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from kdcli.errors import Paused
from kdcli.jobs.train.run import find_or_train
from kdcli.recipe.resolve import resolve
from kdcli.runs.read import epoch_of


def test_paused_at_every_epoch_it_comes_to_the_same_bits(tmp_path):
    resolved = resolve(
        "train-teacher",
        values={
            "data.name": "digits",
            "data.train_limit": 200,
            "data.val_fraction": 0.1,
            "model.name": "mlp",
            "train.epochs": 2,
            "report.html": False,
            "report.latency": False,
        },
    )
    whole, result = find_or_train(resolved, out=tmp_path / "whole")
    for epoch in (1, 1, 2):
        with pytest.raises(Paused) as left:
            find_or_train(resolved, out=tmp_path / "parts", until=epoch)
        assert epoch_of(left.value.run, epoch).val == epoch_of(whole, epoch).val
        assert epoch_of(left.value.run, epoch + 1) is None
    parts, again = find_or_train(resolved, out=tmp_path / "parts")
    assert str(parts) == left.value.run
    ours, theirs = (load_file(run / "model.safetensors") for run in (parts, whole))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert (again.test, again.val, again.train_losses, again.train_accuracy) == (
        result.test,
        result.val,
        result.train_losses,
        result.train_accuracy,
    )
