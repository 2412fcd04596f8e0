"""The loop. It knows stages, batches and steps; it knows no method, network or dataset.

Read it from `Trainer.run` down: _run_stage, _run_epoch, and for each optimiser step
`kdcli.engine.steps.Steps.take`, which is forward, backward and update.

A trainer's position is (stage, epoch, minibatch). A state on disk is a position with everything
that changed since the start; because every random draw is a function of the recipe and the
position, going on from a state gives the very bits of a run that never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from kdcli.core import random
from kdcli.core.carried import Carried
from kdcli.core.method import Method, Stage
from kdcli.core.network import Network
from kdcli.core.types import Feed, Progress
from kdcli.engine.checkpoint import State, flatten_optimiser, restore_optimiser, save_state
from kdcli.engine.distributed import Pace
from kdcli.engine.early_stopping import EarlyStopping
from kdcli.engine.ema import judge, make_average
from kdcli.engine.events import (
    Compiling,
    EpochDone,
    Event,
    Listener,
    StageDone,
    StageStarted,
    StateSaved,
    StepDone,
    StepsCaptured,
)
from kdcli.engine.graphed_steps import CapturedSteps, hindrance
from kdcli.engine.meters import Meters
from kdcli.engine.optim import learning_rate, make_optimiser, set_learning_rate
from kdcli.engine.position import Position, position_of, unfit
from kdcli.engine.runtime import Runtime
from kdcli.engine.settings import TrainSettings
from kdcli.engine.steps import StageParts, Steps, pace_of
from kdcli.errors import KdError, NonFiniteLoss
from kdcli.results.dynamics import Snapshot
from kdcli.results.measures import Measures

CHECK_EVERY = 100  # steps between looks at the loss where looking makes the device wait


@dataclass(frozen=True, slots=True)
class Hooks:
    """The functions by which the engine asks its caller.

    evaluate: measures of a network on the held-out split, or None where nothing is held out.
    probe: what the network that a stage shows answers to a fixed set of images, before the stage's
    first step (step 0) and after each epoch; None where nobody asks.
    keep: takes the network at a moment worth keeping, "best" or "epoch-012".
    stop: asked at step boundaries; an error to stop with, once the state is saved, or None. Ranks
    ask at the same ones, twice a second, and must all be answered alike.
    score: larger is better; by it the best epoch is chosen. agreement: of a network with what it
    learns from, on the held-out split, larger is better; a stage ends by it where settings have a
    patience.
    pause: asked after each epoch of the last stage; an error to stop with, once the state is saved,
    or None. All ranks must be answered alike.
    """

    listeners: Sequence[Listener] = ()
    evaluate: Callable[[Network], Measures | None] = lambda _network: None
    probe: Callable[[Network, Stage, int], Snapshot | None] = lambda _network, _stage, _step: None
    keep: Callable[[str, Network], None] = lambda _name, _network: None
    stop: Callable[[], KdError | None] = lambda: None
    score: Callable[[Measures], float] = lambda measures: measures.accuracy or 0.0
    pause: Callable[[Progress], KdError | None] = lambda _at: None
    agreement: Callable[[Network], float | None] = lambda _network: None


def set_modes(method: Method, stage: Stage) -> None:
    """Freezes everything but what the stage trains: gradients and train mode in one rule."""
    method.requires_grad_(requires_grad=False)
    method.eval()
    for module in stage.trains:
        module.requires_grad_(requires_grad=True)
        module.train()


class Trainer:
    """Trains a method, stage by stage.

    Args:
        method: what is trained and what the loss is, already on the device.
        feed: batches on the device.
        state_folder: where states for `kd resume` go; None keeps none.
        resume: a state to go on from. keeps_last_state: whether one is saved after the last epoch.

    Raises:
        NonFiniteLoss: a loss term became NaN or infinite; the last state on disk is from before.
        KdError: whatever `hooks.stop` returned, after the state was saved.
    """

    def __init__(
        self,
        method: Method,
        feed: Feed,
        runtime: Runtime,
        settings: TrainSettings,
        *,
        hooks: Hooks | None = None,
        state_folder: Path | None = None,
        resume: State | None = None,
        keeps_last_state: bool = False,
    ) -> None:
        self.method = method
        self.feed = feed
        self.share_labelled = 1 - feed.info.unlabelled / feed.info.num_train
        self.runtime = runtime
        self.settings = settings
        self.hooks = hooks or Hooks()
        self.state_folder = state_folder
        self.stages = method.stages()
        self.average = make_average(method.deployable(), settings)
        self.best: float | None = None
        self.stopping = EarlyStopping(settings.patience)
        self._resume, self._keeps_last_state = resume, keeps_last_state
        self._saved_at = time.monotonic()
        self._pace = Pace(runtime.ranks)
        self.position = position_of(resume) if resume else Position()

    # ---- the loop --------------------------------------------------------------------------------

    def run(self) -> Network:
        """Trains every stage that is left; returns the network to evaluate and ship."""
        with torch.random.fork_rng(
            devices=[self.runtime.device] if self.runtime.device.type == "cuda" else []
        ):
            for number in range(self.position.stage, len(self.stages)):
                self._run_stage(number)
        return self.result()

    def _run_stage(self, number: int) -> None:
        stage = self.stages[number]
        # a resumed run goes on inside the first stage it comes to; every other begins at its start
        if number != self.position.stage:
            self.position = Position(stage=number)
            self.stopping.begin()
        set_modes(self.method, stage)
        work = _StageWork(self, stage)
        steps = self._steps(work)
        # only now: the optimiser that the state goes into is the stage's own
        if self._resume is not None:
            try:
                work.restore(self._resume)
            except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
                raise unfit(str(error)) from error
            self._resume = None
        trainable = sum(p.numel() for p in self.method.parameters() if p.requires_grad)
        about = (
            stage.network.blueprint.architecture
            if stage.network is not None and stage.network.blueprint is not None
            else ""
        )
        probe = self._probe(work) if self.position.step == 0 else None
        self._emit(
            StageStarted(
                work.progress(), number + 1, len(self.stages), work.batches, trainable, about, probe
            )
        )
        for epoch in range(self.position.epoch, work.epochs + 1):
            if self.stopping.ended:  # of a resumed run too: that is part of its state
                break
            self.position = replace(self.position, epoch=epoch)
            self._run_epoch(work, steps)
        self._emit(StageDone(work.progress(), number + 1, len(self.stages)))

    @contextmanager
    def _compiling(self, work: _StageWork) -> Iterator[None]:
        """Tells that networks are compiled, where this is the first step of a stage here."""
        if work.compiled or self.runtime.compile_choice.value != "on":
            yield
            return
        self._emit(Compiling(work.progress(), expected=self.runtime.compile_expected))
        began, work.compiled = time.perf_counter(), True
        yield
        self._emit(Compiling(work.progress(), time.perf_counter() - began))

    def _run_epoch(self, work: _StageWork, steps: Steps) -> None:
        started, images = time.perf_counter(), 0
        self.method.on_epoch(work.progress())
        for group in steps.groups(self.position.epoch, self.position.batch):
            # a group: `accumulate` minibatches (fewer at the end), one optimiser step. Its learning
            # rate and seed follow from the position alone, so a resumed run takes the same step
            rate = work.set_rate(pace_of(group))
            with self._compiling(work):
                images += steps.take(group, work.progress(), work.meters, self._seed)
            # else an early stage's steps would count for nothing
            if self.average is not None and work.trains_the_result:
                self.average.update_parameters(self.method.deployable())
            self.position = replace(
                self.position, step=self.position.step + 1, batch=self.position.batch + len(group)
            )
            self._after_step(work, rate, images / (time.perf_counter() - started))
        self._end_epoch(work, time.perf_counter() - started, images)

    def _after_step(self, work: _StageWork, rate: float, speed: float) -> None:
        at = work.progress()
        meters = work.meters
        self._emit(
            StepDone(
                at,
                self.position.batch,
                work.batches,
                rate,
                meters,
                meters.correct,
                round(meters.seen * self.share_labelled),
                speed,
            )
        )
        # ranks save and stop together or not at all: all ask at the same steps, and one that is
        # late makes all save
        talk, late = (
            self._pace.due(),
            time.monotonic() - self._saved_at >= self.settings.state_seconds,
        )
        stop = self.hooks.stop() if talk else None
        due = talk and bool(self.runtime.ranks.most(int(late)))
        # no state is saved whose loss was not finite; beyond that, look seldom: the device has to
        # finish first
        if not self.runtime.synchronous and (
            stop is not None or due or self.position.step % CHECK_EVERY == 0
        ):
            self._check(work)
        if stop is not None or due:
            self._save(work, stopping=stop is not None)
        if stop is not None:
            raise stop

    def _end_epoch(self, work: _StageWork, seconds: float, images: int) -> None:
        self._check(work)
        # from here on all ranks have the same buffers and sums, so all measure the same network
        self.runtime.ranks.agree(self.method, self.average)
        work.meters.agree(self.runtime.ranks)
        at, network, meters, score = work.progress(), self.result(), work.meters, self.hooks.score
        final = work.trains_the_result
        shown = self._shown(work)
        # the first rank may ask teachers, which the others help to answer
        val = (
            self.runtime.ranks.from_first(lambda: self.hooks.evaluate(shown))
            if shown is not None
            else None
        )
        agreement = None
        if final and self.settings.patience is not None:
            agreement = self.runtime.ranks.from_first(lambda: self.hooks.agreement(network))
            self.stopping.judge(self.position.stage, at.epoch, agreement)
        best = final and val is not None and (self.best is None or score(val) > self.best)
        if final:
            judge(self.average, val, self.runtime.ranks)
        writes = self.runtime.ranks.first
        if best and val is not None:
            self.best = score(val)
            if writes:
                self.hooks.keep("best", network)
        if (
            writes
            and final
            and self.settings.keep_every
            and at.epoch % self.settings.keep_every == 0
        ):
            self.hooks.keep(
                f"epoch-{self.epochs_of_result(self.position.stage) + at.epoch:03d}", network
            )
        speed, losses = images / seconds if seconds > 0 else 0.0, meters.means()
        train, probe = meters.accuracy(), self._probe(work)
        self._emit(
            EpochDone(at, work.rate, losses, train, val, best, seconds, speed, probe, agreement)
        )
        self.position = replace(self.position, epoch=at.epoch + 1, batch=0)
        work.meters = Meters(self.runtime.device, labels=self.share_labelled > 0)
        pause = self.hooks.pause(at) if self.position.stage == len(self.stages) - 1 else None
        left = at.epoch < work.epochs and not self.stopping.ended
        if left or self._keeps_last_state or pause is not None:
            self._save(work, stopping=pause is not None)
        if pause is not None:
            raise pause

    # ---- what the loop calls ---------------------------------------------------------------------

    def _steps(self, work: _StageWork) -> Steps:
        """The steps of a stage: replayed from CUDA graphs where these are wanted and possible."""

        def tell(reason: str) -> None:
            self._emit(StepsCaptured(work.progress(), reason))

        arguments = (self.method, self.feed, self.runtime, self.settings)
        parts = StageParts(
            # gradients that are kept apart are averaged over ranks by whoever keeps them
            work.stage.loss
            if self.settings.optim.divides
            else self.runtime.ranks.parallel(self.method, work.stage),
            work.optimiser,
            lambda: self._check(work),
            work.carried,
        )
        if self.runtime.recorder is None:
            return Steps(*arguments, parts)
        if reason := hindrance(self.feed, self.runtime, self.settings):
            tell(reason)
            return Steps(*arguments, parts)
        return CapturedSteps(*arguments, parts, self.runtime.recorder, tell)

    def _seed(self, offset: int) -> None:
        """Seeds what draws from torch's global generator, dropout and its like, for the minibatch
        that comes so many after the position's.
        """
        position = self.position
        counters = (
            position.stage,
            position.epoch,
            position.batch + offset,
            self.runtime.ranks.rank,
        )
        self.runtime.seed(random.key(self.settings.seed, "step", *counters) >> 1)

    def _check(self, work: _StageWork) -> None:
        found = self.runtime.ranks.every(work.meters.first_bad())
        bad = [(item[1], rank, item[0]) for rank, item in enumerate(found) if item is not None]
        if not bad:
            return
        step, rank, term = min(bad)
        where = f" on rank {rank}" if len(found) > 1 else ""
        kept = (
            "the last good state is kept"
            if self.state_folder is not None and any(self.state_folder.glob("state-*"))
            else "no state had been saved"
        )
        raise NonFiniteLoss(
            f"loss term {term!r} is not finite{where} at stage {work.stage.name}, epoch "
            f"{self.position.epoch}, step {step}; {kept}",
            hint=(
                "lower optim.lr, set train.clip_norm=1.0, or train in fp32 (runtime.precision)"
                if step > 1
                else "no step had been taken: look at the data, their mean and std, and at the "
                "weights and options that the loss begins with"
            ),
        )

    def _probe(self, work: _StageWork) -> Snapshot | None:
        shown = self._shown(work)
        return (
            self.runtime.ranks.from_first(
                lambda: self.hooks.probe(shown, work.stage, self.position.step)
            )
            if shown is not None
            else None
        )

    def _emit(self, event: Event) -> None:
        for listener in self.hooks.listeners:
            listener(event)

    # ---- what is deployed ------------------------------------------------------------------------

    def result(self) -> Network:
        """The deployable network: the average of the weights where one is kept."""
        return (
            cast("Network", self.average.module)
            if self.average is not None
            else self.method.deployable()
        )

    def epochs_of_result(self, until: int | None = None) -> int:
        """Epochs that train what is deployed: in all stages, or in those before number `until`,
        from 0.
        """
        return sum(
            self.stopping.stopped.get(number, stage.epochs or self.settings.epochs)
            for number, stage in enumerate(self.stages[:until])
            if self._trains_the_result(stage)
        )

    def _trains_the_result(self, stage: Stage) -> bool:
        # a stage that trains only helpers, or one network of several, has nothing whole to measure,
        # to select or to keep
        return stage.network is None and _trains(stage, self.method.deployable())

    def _shown(self, work: _StageWork) -> Network | None:
        return self.result() if work.trains_the_result else work.stage.network

    # ---- state -----------------------------------------------------------------------------------

    def _save(self, work: _StageWork, *, stopping: bool) -> None:
        if self.state_folder is None:
            return
        ranks = self.runtime.ranks
        facts = {
            "position": asdict(self.position),
            "best": self.best,
            "stopping": self.stopping.state(),
            "runtime": self.runtime.state(),
            "optimiser": {},
        }
        optimiser, facts["optimiser"] = flatten_optimiser(work.optimiser)
        parts: dict[str, dict[str, Tensor]] = {
            "method": self.method.state_dict(),
            "optimiser": optimiser,
            "meters": work.meters.state(),
            "average": self.average.state_dict() if self.average is not None else {},
            "carried": work.carried.state(),
        }
        tensors = {
            f"{part}.{name}": tensor
            for part, named in parts.items()
            for name, tensor in named.items()
        }
        # parameters and optimiser are the same on all ranks; batch norms, sums of the epoch's
        # losses and what networks remember of their part of a text are not before it ends
        own = {name for name, _ in self._named_buffers()}
        tensors |= ranks.differing(
            {
                name: tensor
                for name, tensor in tensors.items()
                if name in own or name.startswith(("meters.", "carried."))
            }
        )
        order = self.position.stage * 10**9 + self.position.step
        self._saved_at = time.monotonic()
        if ranks.first:
            path = save_state(self.state_folder, State(tensors, facts), order)
            self._emit(StateSaved(work.progress(), str(path), stopping))

    def _named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        for part, module in (("method", self.method), ("average", self.average)):
            yield from (
                (f"{part}.{name}", buffer)
                for name, buffer in (module.named_buffers() if module is not None else ())
            )


def _trains(stage: Stage, network: nn.Module) -> bool:
    trained = {id(parameter) for module in stage.trains for parameter in module.parameters()}
    return any(id(parameter) in trained for parameter in network.parameters())


class _StageWork:
    """Optimiser, meters and the arithmetic of the steps of one stage; they live as long as it."""

    def __init__(self, trainer: Trainer, stage: Stage) -> None:
        self.trainer = trainer
        self.stage = stage
        self.trains_the_result = trainer._trains_the_result(stage)  # noqa: SLF001  one class in two parts
        settings = trainer.settings
        self.batches = trainer.feed.train_batches
        self.epochs = stage.epochs or settings.epochs
        self.steps_per_epoch = -(-self.batches // settings.accumulate)
        self.steps = self.epochs * self.steps_per_epoch
        optim = replace(settings.optim, arguments={**settings.optim.arguments, **stage.optim})
        self.base_rate = float(optim.arguments["lr"])
        parameters = [
            parameter for parameter in trainer.method.parameters() if parameter.requires_grad
        ]
        self.optimiser = make_optimiser(
            parameters, optim, capturable=trainer.runtime.recorder is not None
        )
        self.meters = Meters(trainer.runtime.device, labels=trainer.share_labelled > 0)
        self.carried = Carried()
        self.compiled = False  # whether its first step here, which compiles, was taken
        self.rate = self.base_rate

    def progress(self) -> Progress:
        position = self.trainer.position
        return Progress(
            self.stage.name,
            min(position.epoch, self.epochs),
            self.epochs,
            position.step,
            self.steps,
        )

    def set_rate(self, pace: float = 1.0) -> float:
        self.rate = self._rate_at(self.trainer.position.step) * pace
        set_learning_rate(self.optimiser, self.rate)
        return self.rate

    def _rate_at(self, step: int) -> float:
        settings = self.trainer.settings.schedule
        return learning_rate(
            self.base_rate,
            settings,
            step=step,
            steps_per_epoch=self.steps_per_epoch,
            steps=self.steps,
        )

    def restore(self, state: State) -> None:
        """Puts a saved state into method, optimiser, meters and average."""
        trainer = self.trainer
        tensors = trainer.runtime.ranks.own(state.tensors)

        def part(name: str) -> dict[str, Tensor]:
            prefix = f"{name}."
            return {
                key.removeprefix(prefix): value
                for key, value in tensors.items()
                if key.startswith(prefix)
            }

        trainer.runtime.load_state(state.facts["runtime"])
        trainer.method.load_state_dict(part("method"))
        restore_optimiser(self.optimiser, part("optimiser"), state.facts["optimiser"])
        self.meters.load_state(part("meters"))
        self.carried.load_state(part("carried"), trainer.runtime.device)
        trainer.best = state.facts["best"]
        # a state of before there was early stopping says nothing of it
        trainer.stopping.load_state(state.facts.get("stopping", {}))
        # the last step's: an epoch may have none left to take
        self.rate = self._rate_at(max(trainer.position.step - 1, 0))
        if trainer.average is not None:
            trainer.average.load_state_dict(part("average"))
