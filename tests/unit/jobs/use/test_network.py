"""A run's network as a plain module: the logits that kd measured it by, from normalised pictures."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from kdcli.errors import NotFound
from kdcli.jobs import evaluate, load_network
from kdcli.jobs.build.datasets import open_feed
from kdcli.recipe.measured_data import asked_for, section_of
from kdcli.results.preprocessing import Preprocessing


def test_a_run_is_a_module_with_the_logits_that_it_was_measured_by(trained, tmp_path):
    network = load_network(trained.out / "kd")
    evaluate([trained.out / "kd"], save_logits_to=tmp_path / "logits.safetensors")
    section = section_of(network.checkpoint, network.header, asked_for())
    feed = open_feed(section, device=torch.device("cpu"), seed=0)
    with torch.no_grad():
        logits = torch.cat([network(batch.x) for batch in feed.split("test")])
    assert not network.training
    assert network.class_names == tuple("0123456789")
    assert torch.equal(logits, load_file(tmp_path / "logits.safetensors")["logits.kd"])


def test_no_run(tmp_path):
    with pytest.raises(NotFound):
        load_network(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("size", "asked", "shorter"),
    [(224, None, 256), (224, 200, 224), (96, None, 96), (96, 110, 110)],
)
def test_the_shorter_side_of_picture_files(size, asked, shorter):
    class Options:
        background = (255, 255, 255)

    Options.size, Options.resize = size, asked
    found = Preprocessing.of_data((3, size, size), (0.5,) * 3, (0.5,) * 3, Options)
    assert found.resize == shorter


def test_other_pictures_are_brought_to_the_networks_size():
    found = Preprocessing.of_data((1, 20, 28), (0.5,), (0.5,))
    assert (found.resize, found.takes_pictures) == (28, True)
    assert not Preprocessing.of_data((1, 1, 12), (0.5,), (0.5,)).takes_pictures
