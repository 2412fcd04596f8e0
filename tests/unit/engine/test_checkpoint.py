"""Files that are whole or refused: checkpoints explain themselves, damage is noticed, states
survive a bad newest one.
"""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from kdcli.core import random
from kdcli.engine.checkpoint import State, digest, load_state, load_weights, save_model, save_state
from kdcli.errors import BadCheckpoint, CorruptFile, Incompatible, NotFound
from kdcli.results.weights_header import CheckpointHeader, read_header
from tests.unit.engine.conftest import Tiny
from tests.unit.report import fake_run


@pytest.fixture
def header():
    return CheckpointHeader(
        "tiny",
        {},
        3,
        (1, 6, 6),
        ("a", "b", "c"),
        (0.0,),
        (1.0,),
        {"name": "noise"},
        "f",
        55,
        metrics=asdict(fake_run.measures(0.5)),
    )


def tiny(copy: int = 0) -> Tiny:
    with random.seeded(0, "init", copy):
        return Tiny()


def test_a_checkpoint_round_trips_and_explains_itself(tmp_path, header):
    saved = save_model(tmp_path / "model.safetensors", tiny(1), header)
    other = tiny(2)
    load_weights(tmp_path / "model.safetensors", other)
    assert digest(other.state_dict()) == digest(tiny(1).state_dict())
    assert read_header(tmp_path)[1] == saved


def test_equal_networks_give_equal_files(tmp_path, header):
    contiguous, channels_last = tiny(), tiny().to(memory_format=torch.channels_last)
    for name, network in (("a", contiguous), ("b", channels_last)):
        save_model(tmp_path / name, network, header)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path, header):
    path = tmp_path / "model.safetensors"
    save_model(path, tiny(), header)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match="checksum"):
        load_weights(path, tiny())


@pytest.mark.parametrize("keep", [0, 5, 40, 200, -1])
def test_a_truncated_file_is_refused_by_its_header(tmp_path, header, keep):
    path = tmp_path / "model.safetensors"
    save_model(path, tiny(), header)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadCheckpoint, match=str(path)):
        read_header(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a pickle or a zip", b'{"json": true}' * 9, b""])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match="not a safetensors file"):
        read_header(path)


def test_a_safetensors_file_of_others_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(BadCheckpoint, match="no kd header") as caught:
        read_header(tmp_path / "other.safetensors")
    assert caught.value.hint.startswith(f"kd import {tmp_path / 'other.safetensors'} --model NAME")
    torch.save({"w": torch.zeros(2)}, tmp_path / "last.pth")
    with pytest.raises(BadCheckpoint, match="is not a safetensors file") as caught:
        read_header(tmp_path / "last.pth")
    assert caught.value.hint.startswith(f"kd import {tmp_path / 'last.pth'} --model NAME")


def test_other_parameters_than_the_file_has_are_refused(tmp_path, header):
    save_model(tmp_path / "m", tiny(), header)
    wider = tiny()
    wider.head = torch.nn.Linear(4, 5)
    with pytest.raises(Incompatible, match="head"):
        load_weights(tmp_path / "m", wider)


@pytest.mark.parametrize("wrong", [torch.int32, torch.complex64, torch.bool])
def test_weights_of_another_type_are_refused_by_name(tmp_path, header, wrong):
    """Their checksum is right: torch would convert them, and lose what does not fit."""
    network = tiny()
    network.head.weight = torch.nn.Parameter(network.head.weight.to(wrong), requires_grad=False)
    save_model(tmp_path / "model.safetensors", network, header)
    named = str(wrong).removeprefix("torch.")
    with pytest.raises(Incompatible, match=rf"head.weight is {named}, and the network has float32"):
        load_weights(tmp_path / "model.safetensors", tiny())


def test_a_state_round_trips_and_only_the_newest_few_are_kept(tmp_path):
    for order in range(5):
        save_state(
            tmp_path, State({"x": torch.full((3,), float(order))}, {"position": order}), order
        )
    state = load_state(tmp_path)
    assert state.facts == {"position": 4}
    assert state.tensors["x"].tolist() == [4.0] * 3
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_newest_state_falls_back_to_the_one_before(tmp_path):
    for order in range(2):
        newest = save_state(
            tmp_path, State({"x": torch.tensor([float(order)])}, {"position": order}), order
        )
    newest.write_bytes(newest.read_bytes()[:-2])
    assert load_state(tmp_path).facts == {"position": 0}


def test_no_state_says_so(tmp_path):
    with pytest.raises(NotFound, match="no saved state"):
        load_state(tmp_path)


def test_a_failed_write_leaves_nothing_behind(tmp_path, header, monkeypatch):
    from safetensors import SafetensorError

    from kdcli.engine import checkpoint
    from kdcli.errors import DiskFull

    def full(*_args, **_kwargs):  # the library's own words when a disk was full
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DiskFull, match="disk is full"):
        save_model(tmp_path / "model.safetensors", tiny(), header)
    assert list(tmp_path.iterdir()) == []
