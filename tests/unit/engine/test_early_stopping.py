"""A stage ends when the agreement has not grown for a while, and a resumed run ends there too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdcli.engine.checkpoint import digest, load_state
from kdcli.engine.early_stopping import EarlyStopping
from kdcli.engine.events import EpochDone
from kdcli.engine.trainer import Hooks
from kdcli.errors import Interrupted
from tests.catalogue.conftest import tiny_setup
from tests.catalogue.test_methods import method_class
from tests.catalogue.training import make_trainer

AGREEMENTS = {1: 0.5, 2: 0.6, 3: 0.6, 4: 0.55, 5: 0.9}


def test_epochs_without_a_better_one_are_counted_and_kept():
    stopping = EarlyStopping(2)
    ended = []
    for epoch, agreement in AGREEMENTS.items():
        stopping.judge(1, epoch, agreement)
        ended.append(stopping.ended)
        again = EarlyStopping(2)
        again.load_state(stopping.state())
        assert again.state() == stopping.state()
        if stopping.ended:
            break
    assert ended == [False, False, False, True]
    assert stopping.stopped == {1: 4}
    told = stopping.in_words(9)
    assert told == (
        "stopped after epoch 4 of 9: the last 2 brought no better agreement on the held-out "
        "part; 60.0% after epoch 2"
    )
    assert EarlyStopping(None).ended is False


def trainer(epochs: int, patience: int | None, **rest):
    events = []
    made = make_trainer(method_class("kd"), tiny_setup, epochs=epochs, **rest)
    made.settings = replace(made.settings, patience=patience)
    # what an agreement is does not matter here: it is a number an epoch
    made.hooks = replace(
        made.hooks,
        listeners=[events.append],
        agreement=lambda _: AGREEMENTS[made.position.epoch],
    )
    made.stopping = EarlyStopping(patience)
    return made, events


def test_a_stopped_run_is_one_of_fewer_epochs_and_resumes_to_the_same_end(tmp_path):
    early, events = trainer(5, 2)
    network = early.run()
    epochs = [event.at.epoch for event in events if isinstance(event, EpochDone)]
    assert epochs == [1, 2, 3, 4]
    assert early.epochs_of_result() == 4
    asked = iter(range(1, 100))
    begun, _ = trainer(5, 2, folder=tmp_path)
    begun.hooks = replace(
        begun.hooks, stop=lambda: Interrupted("stop") if next(asked) == 10 else None
    )
    with pytest.raises(Interrupted):
        begun.run()
    resumed, events = trainer(5, 2, resume=load_state(tmp_path))
    assert digest(resumed.run().state_dict()) == digest(network.state_dict())
    assert [event.at.epoch for event in events if isinstance(event, EpochDone)][-1] == 4


def test_without_patience_nobody_asks():
    whole, events = trainer(2, None)
    whole.hooks = replace(whole.hooks, agreement=lambda _: 1 / 0)
    whole.run()
    assert len([event for event in events if isinstance(event, EpochDone)]) == 2
    assert Hooks().agreement(whole.result()) is None
