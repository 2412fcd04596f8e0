"""Every method with its steps captured: through the real trainer, with a tape in the place of CUDA
graphs.
"""

from __future__ import annotations

from unittest.mock import PropertyMock, patch

import pytest
import torch

from kdcli import catalog
from kdcli.engine.events import EpochDone, StepsCaptured
from kdcli.engine.runtime import Runtime
from kdcli.engine.trainer import Hooks
from tests.catalogue.tape import Tape, Unable
from tests.catalogue.test_methods import method_class
from tests.catalogue.training import make_trainer

# their losses depend on the number of the step: random numbers, or a weight that changes with it
BY_STEP = frozenset({"crd", "dgkd", "diffkd", "mgd", "vitkd"})

# a tape holds what it has noted, so autograd may not add up gradients in place: their sum lies
# otherwise in memory, and rounds otherwise
ROUNDS = frozenset({"reviewkd"})


def train(name, make_setup, recorder):
    """The trained method, the epochs' losses and accuracies, and what was told of capturing."""
    events = []
    # as on a GPU, where nothing reads the loss of a step
    with patch.object(Runtime, "synchronous", new_callable=PropertyMock, return_value=False):
        trainer = make_trainer(
            method_class(name),
            make_setup,
            hooks=Hooks([events.append]),
            recorder=recorder,
            batch_size=4,
        )
        trainer.run()
    epochs = [
        (event.losses, event.train_accuracy) for event in events if isinstance(event, EpochDone)
    ]
    return (
        trainer.method.state_dict(),
        epochs,
        [event.reason for event in events if isinstance(event, StepsCaptured)],
    )


@pytest.mark.parametrize("name", catalog.names("method"))
def test_captured_steps_end_where_usual_ones_do(name, make_setup):
    tape = Tape()
    state, epochs, told = train(name, make_setup, tape)
    usual_state, usual_epochs, told_there = train(name, make_setup, Unable())
    allowed = {"rtol": 1e-5, "atol": 1e-7} if name in ROUNDS else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(epochs, usual_epochs, **allowed)
    torch.testing.assert_close(state, usual_state, **allowed)
    if name in BY_STEP:
        assert "its loss depends on the step" in told
    else:
        assert set(told) == {""}
        assert tape.replays
        # of the five minibatches of an epoch, all but the two that are watched
        assert set(tape.replays) == {3}
        assert set(told_there) == {"the device refused: operation not permitted"}
