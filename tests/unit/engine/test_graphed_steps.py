"""Steps that are captured and replayed: the same training, and never in silence where they cannot
be. Graphs are tapes here.
"""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import PropertyMock, patch

import pytest
import torch
from torch import nn

from kdcli.core.types import Step
from kdcli.engine.checkpoint import digest, load_state
from kdcli.engine.cuda_graphs import CudaRecorder
from kdcli.engine.events import StepDone, StepsCaptured
from kdcli.engine.hardware import choose_graphs, choose_teacher_batch
from kdcli.engine.runtime import Runtime
from kdcli.engine.settings import OptimSettings, ScheduleSettings, TrainSettings
from kdcli.engine.trainer import Hooks, Trainer
from kdcli.errors import DeviceUnavailable, Interrupted, NonFiniteLoss, OutOfMemory
from tests.catalogue.tape import Tape, Unable
from tests.unit.engine.conftest import CrossEntropyMethod, NoiseFeed, ThreeStages

BASE = TrainSettings(
    epochs=3, optim=OptimSettings("sgd", {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4})
)
ADAMW = OptimSettings("adamw", {"lr": 0.01, "weight_decay": 0.01})


@pytest.fixture(autouse=True)
def _as_on_a_gpu():
    with patch.object(Runtime, "synchronous", new_callable=PropertyMock, return_value=False):
        yield


@pytest.fixture
def feed():
    return NoiseFeed(n=44)  # five minibatches of eight, one of four


@pytest.fixture
def train(make_method, feed, runtime):
    def go(
        recorder,
        settings=BASE,
        kind=CrossEntropyMethod,
        *,
        stop=lambda: None,
        folder=None,
        resume=None,
    ):
        events = []
        runtime.recorder = recorder
        hooks = Hooks([events.append], stop=stop)
        trainer = Trainer(
            make_method(kind),
            feed,
            runtime,
            settings,
            hooks=hooks,
            state_folder=folder,
            resume=resume,
        )
        return digest(trainer.run().state_dict()), events

    return go


def reasons(events):
    return [event.reason for event in events if isinstance(event, StepsCaptured)]


@pytest.mark.parametrize(
    "settings",
    [
        BASE,
        replace(BASE, optim=ADAMW, schedule=ScheduleSettings("multistep", milestones=(1, 2))),
        replace(BASE, ema=0.9, clip_norm=0.5, schedule=ScheduleSettings("cosine", warmup_epochs=1)),
    ],
    ids=["sgd", "adamw-multistep", "ema-clip-warmup"],
)
def test_a_replayed_run_has_the_bits_of_one_that_is_not(train, settings):
    tape = Tape()
    replayed, told = train(tape, settings, ThreeStages)
    assert replayed == train(Unable(), settings, ThreeStages)[0]
    assert reasons(told) == [""] * 3  # once a stage
    # in each epoch all of the five that are of the usual size, but the first two
    assert tape.replays == [3] * (8 + 2 + 3)


def test_it_goes_on_from_any_step_to_the_same_bits(train, tmp_path):
    straight, _ = train(Tape())
    for step in (1, 3, 4, 6, 8):
        asked, folder = iter(range(1, 1000)), tmp_path / str(step)
        with pytest.raises(Interrupted):
            train(
                Tape(),
                stop=lambda: Interrupted("stop") if next(asked) == step else None,  # noqa: B023
                folder=folder,
            )
        assert train(Tape(), resume=load_state(folder))[0] == straight, f"stopped after step {step}"


def test_meters_and_events_count_replayed_images(train, feed):
    _, events = train(Tape())
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [event.seen for event in steps[:6]] == [8, 16, 24, 32, 40, 44]
    assert len(steps) == 3 * feed.train_batches


class ByFraction(CrossEntropyMethod):
    def loss(self, batch, at):
        step = super().loss(batch, at)
        return Step({"ce": step.losses["ce"] * (1 - at.fraction)}, step.logits)


class Reading(CrossEntropyMethod):
    def loss(self, batch, at):
        step = super().loss(batch, at)
        return Step(
            {"ce": step.losses["ce"] / max(step.logits.abs().max().item(), 1.0)}, step.logits
        )


class ByEpoch(CrossEntropyMethod):
    def loss(self, batch, at):
        step = super().loss(batch, at)
        return Step({"ce": step.losses["ce"] / at.epoch}, step.logits)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(ByFraction, "its loss depends on the step"), (Reading, "it makes the host wait: ")],
)
def test_what_a_graph_would_forget_is_not_captured(train, kind, reason):
    tape = Tape()
    trained, events = train(tape, kind=kind)
    assert trained == train(Unable(), kind=kind)[0]
    assert tape.replays == []
    (told,) = reasons(events)
    assert told.startswith(reason)


def test_the_line_that_waits_is_named(train):
    told = reasons(train(Tape(), kind=Reading)[1])
    assert "test_graphed_steps.py:" in told[0]


def test_what_depends_on_the_epoch_is_captured_anew_in_each(train):
    tape = Tape()
    assert train(tape, kind=ByEpoch)[0] == train(Unable(), kind=ByEpoch)[0]
    assert len(tape.replays) == 3


def test_a_device_that_refuses_is_told_of_once_and_trains(train):
    _, events = train(Unable())
    assert reasons(events) == ["the device refused: operation not permitted"]


class Large(CrossEntropyMethod):
    full = False

    def loss(self, batch, at):
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().loss(batch, at)


def test_what_does_not_fit_is_out_of_memory(train):
    class Full:
        def record(self, work):
            with patch.object(Large, "full", new=True):
                work()

    with pytest.raises(OutOfMemory, match=r"batch 8.*fp32"):
        train(Full(), kind=Large)


def test_a_loss_that_is_not_finite_is_found_with_its_step(make_method, feed, runtime):
    class Diverging(CrossEntropyMethod):
        def loss(self, batch, at):
            step = super().loss(batch, at)
            hit = (batch.index == marked).any()
            return Step({"ce": torch.where(hit, torch.nan, 1.0) * step.losses["ce"]}, step.logits)

    # in a step that is replayed
    marked = next(iter(draw for place, draw in enumerate(feed.draws(1)) if place == 3)).index[0]
    runtime.recorder = Tape()
    with pytest.raises(NonFiniteLoss, match="epoch 1, step 4"):
        Trainer(make_method(Diverging), feed, runtime, BASE).run()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"accumulate": 2}, "a step has several minibatches (train.accumulate)"),
        ({"resident": False}, "pictures are decoded as they are needed"),
        ({"dtype": torch.float16}, "fp16 scales its losses"),
    ],
)
def test_runs_that_have_no_graphs_say_why(train, feed, runtime, monkeypatch, change, reason):
    settings = replace(BASE, accumulate=change.get("accumulate", 1))
    monkeypatch.setattr(NoiseFeed, "resident", change.get("resident", True))
    monkeypatch.setattr(runtime, "dtype", change.get("dtype", torch.float32))
    tape = Tape()
    _, events = train(tape, settings)
    assert reasons(events) == [reason]
    assert tape.replays == []


class Forgetful(CrossEntropyMethod):
    """Gives an attribute another tensor at each step, which a graph does not see: what tapes are
    for.
    """

    def __init__(self, options, setup):
        super().__init__(options, setup)
        self.register_buffer("turns", torch.zeros(()))

    def loss(self, batch, at):
        self.turns = self.turns + 1
        step = super().loss(batch, at)
        return Step({"ce": step.losses["ce"] / self.turns}, step.logits)


def test_a_tape_forgets_what_a_graph_forgets(train):
    assert train(Tape(), kind=Forgetful)[0] != train(Unable(), kind=Forgetful)[0]


def test_graphs_are_for_cuda_devices():
    assert choose_graphs("auto", torch.device("cpu")).value == "off"
    assert choose_graphs("off", torch.device("cuda")).reason == "asked for"
    with pytest.raises(DeviceUnavailable, match="only CUDA devices have graphs"):
        choose_graphs("on", torch.device("cpu"))


def test_a_teacher_within_the_graph_answers_a_minibatch_at_a_time():
    cuda = torch.device("cuda")
    assert choose_teacher_batch(None, 64, cuda).value == "256"
    assert choose_teacher_batch(None, 64, cuda, graphs=True).value == "64"


class LateReader(CrossEntropyMethod):
    """Sets something up in its first step, as stored logits that are all there do."""

    ready = False

    def loss(self, batch, at):
        if not self.ready:
            self.ready = bool(batch.x.sum().cpu() != 0)
        return super().loss(batch, at)


def test_what_is_set_up_in_the_first_step_may_wait(train):
    tape = Tape()
    _, events = train(tape, kind=LateReader)
    assert reasons(events) == [""]
    assert len(tape.replays) == 3


def test_cuda_is_asked_for_graphs_of_the_device_of_the_job():
    device, order = torch.device("cuda:1"), []
    with (
        patch("torch.cuda.Stream") as stream,
        patch("torch.cuda.graph_pool_handle") as pool,
        patch("torch.cuda.CUDAGraph") as made,
        patch("torch.cuda.device") as current,
        patch(
            "torch.cuda.graph", autospec=True
        ) as capture,  # refuses what torch's own does not take
    ):
        capture.return_value.__enter__.side_effect = lambda *_: order.append("capture")
        replay = CudaRecorder(device).record(lambda: order.append("work"))
    assert order == ["capture", "work"]
    stream.assert_called_once_with(device)
    current.assert_called_once_with(device)
    (graph,), settings = capture.call_args
    assert (graph, settings["pool"], settings["stream"]) == (
        made.return_value,
        pool.return_value,
        stream.return_value,
    )
    assert replay == made.return_value.replay


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [BASE, replace(BASE, optim=ADAMW, clip_norm=0.5, ema=0.9)],
    ids=["sgd", "adamw-clip-ema"],
)
def test_a_gpu_replays_the_training_that_it_would_do(make_method, settings):
    ends, told = {}, []
    for graphs in ("off", "on"):
        runtime = Runtime("cuda", precision="fp32", graphs=graphs)
        feed = NoiseFeed(n=44)
        feed.to(runtime.device)
        method = make_method(CrossEntropyMethod)
        runtime.move(method)
        trainer = Trainer(method, feed, runtime, settings, hooks=Hooks([told.append]))
        ends[graphs] = nn.utils.parameters_to_vector(trainer.run().parameters())
    assert reasons(told) == [""]
    torch.testing.assert_close(ends["on"], ends["off"], rtol=1e-3, atol=1e-5)
