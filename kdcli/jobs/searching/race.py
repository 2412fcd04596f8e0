"""The race of a search: trials are trained to a rung, compared, and left behind or trained on.

Asynchronous successive halving (Li et al., MLSys 2020, arXiv:1810.05934): nobody waits for a rung
to be full. A trial is one run or more, which the executor of a sweep runs; it is paused at a rung
and gone on with from its state.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from kdcli.errors import Interrupted, KdError, Terminated, UsageError
from kdcli.jobs.events import FromRun, Listener, TrialDone
from kdcli.jobs.processes.signals import StopRequest
from kdcli.jobs.searching.space import HELD_OUT
from kdcli.jobs.searching.study import Study
from kdcli.jobs.sweep.executor import Executor
from kdcli.jobs.sweep.schedule import Ended, Task
from kdcli.results.search import Score, Trial
from kdcli.runs.read import epoch_of

if TYPE_CHECKING:
    import optuna

_TURN_SECONDS = 0.2  # a signal is noticed that late at most
_KEPT = "what was tried and the state of every running trial are kept"
_ALL_FAIL = 3  # so many trials fail and none succeeds: so will the others

Steps = Generator[Task, Ended, Score]


class Plan(Protocol):
    """What a search tries.

    rungs: epochs after which trials are compared, the last of which is all that there are.
    """

    rungs: tuple[int, ...]

    def suggest(self, trial: optuna.Trial) -> None:
        """Has the parameters of a trial chosen."""
        ...

    def label(self, trial: Trial) -> str:
        """A trial's parameters in a few words."""
        ...

    def worth(self, trial: Trial, score: Score) -> float:
        """What the sampler is to find more of."""
        ...

    def steps(self, trial: Trial, rung: int) -> Steps:
        """The tasks that take a trial to a rung, one after another, and what it came to there; its
        seconds are counted by who runs them. rung: its number, from 0.
        """
        ...


@dataclass
class _Heat:
    """A trial on its way to a rung."""

    trial: Trial
    rung: int
    steps: Steps
    task: Task
    began: float = 0.0
    seconds: float = 0.0  # that its tasks have taken


class Race:
    """Races the trials of a study.

    Args:
        limit: trials in all. seconds: after which none begins or is trained on; None: no such.
        command: goes on from there where it is stopped.
    """

    def __init__(
        self,
        study: Study,
        plan: Plan,
        listeners: Sequence[Listener],
        *,
        limit: int,
        seconds: float | None,
        command: str,
    ) -> None:
        self.study = study
        self.plan = plan
        self.listeners = listeners
        self.limit = limit
        self.command = command
        self._most = seconds
        self._before = study.seconds
        self._began = time.monotonic()
        self._ready: deque[_Heat] = deque()
        self._running: dict[str, _Heat] = {}  # by the key of its task
        self._stopping: KdError | None = None

    @property
    def spent(self) -> float:
        """Seconds that the search has taken, those of earlier processes counted."""
        return self._before + time.monotonic() - self._began

    @property
    def late(self) -> bool:
        return self._most is not None and self.spent >= self._most

    def run(self, executor: Executor, first: Sequence[Task] = ()) -> None:
        """Races until nothing is left to try.

        Args:
            first: tasks that all trials wait for, such as their teacher's.

        Raises:
            Interrupted, Terminated: what was tried is kept, and the same command goes on. KdError:
                every trial fails, or one of `first` does.
        """
        try:
            with StopRequest(self.command, kept=_KEPT) as stop, executor:
                for task in first:
                    self._wait_for(task, executor, stop)
                for trial in self.study.trials:
                    if trial.state == "going on":
                        self._begin(trial)
                while self._turn(executor, stop):
                    pass
        except (Interrupted, Terminated) as error:
            error.hint = self.command
            raise
        finally:
            self.study.spend(self.spent)

    def finish(self, executor: Executor, task: Task) -> str:
        """Runs one task to its end; returns the folder of its run."""
        try:
            with StopRequest(self.command, kept=_KEPT) as stop, executor:
                return self._wait_for(task, executor, stop)
        except (Interrupted, Terminated) as error:
            error.hint = self.command
            raise
        finally:
            self.study.spend(self.spent)

    def _wait_for(self, task: Task, executor: Executor, stop: Callable[[], KdError | None]) -> str:
        executor.start(task, executor.shares(1)[0])
        while True:
            for _, message in executor.listen(_TURN_SECONDS):
                if not isinstance(message, Ended):
                    self._tell(FromRun(task.id, 0, task.name, message))
                elif self._stopping is not None:
                    raise self._stopping
                elif message.run is None:
                    raise KdError(f"{task.name} failed: {message.error}", hint=self.command)
                else:
                    return message.run
            self._heed(executor, stop)

    def _heed(self, executor: Executor, stop: Callable[[], KdError | None]) -> None:
        if self._stopping is None:
            self._stopping = stop()
            if self._stopping is not None:
                executor.stop()

    def _turn(self, executor: Executor, stop: Callable[[], KdError | None]) -> bool:
        """Starts what can start and hears what there is; False where nothing is left to do."""
        if self._stopping is None:
            self._fill(executor)
        if self._stopping is not None and not executor.busy:
            raise self._stopping
        if not executor.busy:
            return False
        for task, message in executor.listen(_TURN_SECONDS):
            heat = self._running.get(task.key)
            if heat is None:
                continue
            if isinstance(message, Ended):
                del self._running[task.key]
                heat.seconds += time.monotonic() - heat.began
                self._ended(heat, message)
            else:
                self._tell(FromRun(task.id, heat.trial.number, task.name, message))
        self._heed(executor, stop)
        return True

    # ---- what begins -----------------------------------------------------------------------------

    def _fill(self, executor: Executor) -> None:
        if self.late:
            # what has been tried stays as it is: with more time the same command goes on with it
            return
        new = max(self.limit - len(self.study.trials), 0)
        for share in executor.shares(len(self._ready) + new):
            heat = self._next()
            while heat is None and len(self.study.trials) < self.limit:
                trial = self.study.ask(self.plan.suggest)
                if trial is None:
                    self.limit = len(self.study.trials)
                    break
                self._begin(trial)
                heat = self._next()
            if heat is None:
                return
            heat.began = time.monotonic()
            self._running[heat.task.key] = heat
            executor.start(heat.task, share)

    def _next(self) -> _Heat | None:
        """The next heat, but none whose run goes on: two trials may have the same parameters."""
        for heat in self._ready:
            if heat.task.key not in self._running:
                self._ready.remove(heat)
                return heat
        return None

    def _begin(self, trial: Trial) -> None:
        """Puts a trial on its way to the next rung."""
        steps = self.plan.steps(trial, len(trial.scores))
        try:
            task = next(steps)
        except KdError as error:
            self._fail(trial, error.message)
            return
        self._ready.append(_Heat(trial, len(trial.scores), steps, task))

    # ---- what ended ------------------------------------------------------------------------------

    def _ended(self, heat: _Heat, ended: Ended) -> None:
        if ended.status == "stopped" or (ended.status == "failed" and self._stopping is not None):
            # a worker that somebody else stopped: so will the rest be
            self._stopping = self._stopping or Terminated(f"terminated; {_KEPT}", hint=self.command)
            return
        if ended.status == "failed":
            self._fail(heat.trial, ended.error or "it failed")
            return
        try:
            heat.task = heat.steps.send(ended)
        except StopIteration as done:
            self._scored(heat.trial, replace(done.value, seconds=heat.seconds))
        except KdError as error:
            self._fail(heat.trial, error.message)
        else:
            self._ready.appendleft(heat)  # of one trial nothing comes between

    def _scored(self, trial: Trial, score: Score) -> None:
        self.study.report(trial.number, score, self.plan.worth(trial, score))
        self.study.spend(self.spent)
        now = self.study.trial(trial.number)
        if len(now.scores) == len(self.plan.rungs):
            self.study.end(trial.number, "raced to the end")
        elif self.study.leaves(trial.number):
            self.study.end(trial.number, "left behind")
        else:
            self._begin(now)
        self._say(trial.number)

    def _fail(self, trial: Trial, error: str) -> None:
        self.study.end(trial.number, "failed", error)
        self._say(trial.number)
        trials = self.study.trials
        failed = sum(each.state == "failed" for each in trials)
        if failed >= _ALL_FAIL and not any(each.scores for each in trials):
            raise KdError(
                f"the first {failed} trials failed, and none succeeded: {error}",
                hint="try the recipe alone: kd distill RECIPE --dry-run",
            )

    def _say(self, number: int) -> None:
        trial = self.study.trial(number)
        self._tell(TrialDone(trial, self.plan.label(trial), self.limit, self.plan.rungs[-1]))

    def _tell(self, event: FromRun | TrialDone) -> None:
        for listener in self.listeners:
            listener(event)


def rungs(epochs: int, factor: int) -> tuple[int, ...]:
    """Epochs after which trials are compared: the first, then `factor` times as many each time, and
    all of them last; the first is so early that there are three or four.
    """
    at = max(epochs // factor**2, 1)
    found = []
    while at < epochs:
        found.append(at)
        at *= factor
    return (*found, epochs)


def score_of(run: str, epoch: int) -> Score:
    """What a run came to on held-out images after an epoch.

    Raises:
        UsageError: nothing is held out, or nothing with a label.
    """
    found = epoch_of(run, epoch)
    if found is None or found.val is None or found.val.accuracy is None:
        raise UsageError(
            f"{run} measured no accuracy on held-out images after epoch {epoch}",
            hint=f"images with labels, and -s data.val_fraction={HELD_OUT}",
        )
    return Score(epoch, found.val.accuracy, found.val.n, run, 0.0)
