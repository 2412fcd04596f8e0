"""The forecast of a run: its trial run, extrapolated. Nothing of that is left, neither under the
runs nor in the caches.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from kdcli.core.network import Network, parameter_count
from kdcli.engine.teachers.ready import NoNetwork
from kdcli.jobs.build.header import architecture
from kdcli.jobs.build.job import Job, build_job
from kdcli.jobs.build.trusted_recipe import trusted_recipe
from kdcli.jobs.plan.extrapolate import extrapolate
from kdcli.jobs.plan.trial_run import stand_in, try_run
from kdcli.jobs.processes import devices
from kdcli.models.cost import macs
from kdcli.recipe.resolve import Resolved, teacher_recipe
from kdcli.recipe.schema import DistillRecipe, Recipe, TeacherSection
from kdcli.recipe.writing import recipe_hash
from kdcli.results.plan import Plan, PlannedNetwork
from kdcli.runs import find
from kdcli.runs.find import finished_runs

Tell = Callable[[str], None]

_PATIENCE = 6.0  # seconds for all networks together to go through a split in a trial run


def forecast(
    resolved: Resolved,
    *,
    out: Path,
    tell: Tell = lambda _text: None,
    spent: float = 0.0,
    trust: bool = False,
) -> Plan:
    """The plan of a recipe, after those of its teachers that have not been trained.

    Args:
        out: folder of the runs, where a teacher that is named by recipe is looked for.
        tell: told what is being tried.
        spent: seconds that the run will have taken as well when it comes to where this begins:
            those of the imports.
        trust: whether Python files run that somebody else than the caller has named.

    Raises:
        KdError: as the run would.
    """
    with trusted_recipe(resolved, trust=trust), forecasting(out, tell) as forecaster:
        return forecaster.plan(resolved, spent)[0]


@contextmanager
def forecasting(out: Path, tell: Tell) -> Iterator[Forecaster]:
    """Whoever plans recipes, each of their teachers once, and leaves nothing behind. Arguments as
    of `forecast`.
    """
    devices.refuse_torchrun("kd plan")
    with tempfile.TemporaryDirectory(prefix="kd-plan-") as folder:
        yield Forecaster(out, Path(folder), tell)


class Forecaster:
    """Plans a recipe after the recipes of its teachers."""

    def __init__(self, out: Path, folder: Path, tell: Tell) -> None:
        self._out = out
        self._folder = folder
        self._tell = tell
        self._trained: dict[str, Path] = {}
        self._elsewhere = 0.0  # seconds in the plans of teachers

    def plan(
        self, resolved: Resolved, spent: float = 0.0, *, teaches: bool = False
    ) -> tuple[Plan, Path]:
        """The plan and the folder of the trial run; with the files of a teacher if it `teaches`."""
        recipe = resolved.recipe
        first: list[Plan] = []
        notes = list(resolved.notes)
        began, before = time.perf_counter(), self._elsewhere
        job = build_job(
            recipe,
            lambda section: self._teacher(section, recipe, first, notes),
            trial_tables=self._folder / "tables",
        )
        networks = tuple(self._networks(job))
        start = spent + time.perf_counter() - began - (self._elsewhere - before)
        self._tell(f"trying some steps of {networks[-1].architecture}")
        share = networks[-1].macs / max(sum(network.macs for network in networks), 1)
        with self._code_compiled_elsewhere(job) as importing:
            trial = try_run(
                job, resolved, self._folder / recipe_hash(recipe), patience=_PATIENCE * share
            )
        if recipe.runtime.devices > 1:
            notes.append(f"planned for one device: runtime.devices is {recipe.runtime.devices}")
        planned = extrapolate(
            job, trial, networks, first, start=start, importing=importing[0], notes=tuple(notes)
        )
        return planned, stand_in(job, trial) if teaches else trial.run

    def _teacher(
        self, section: TeacherSection, student: Recipe, first: list[Plan], notes: list[str]
    ) -> Path:
        """The run of a teacher's recipe, or the trial run that stands in for it."""
        resolved, _ = teacher_recipe(section, student)
        digest = recipe_hash(resolved.recipe)
        if digest not in self._trained:
            began, before = time.perf_counter(), self._elsewhere
            done = finished_runs(self._out).get(digest)
            if done is None:
                stopped = find.unfinished_run(self._out, digest)
                notes += (
                    [
                        (
                            f"{stopped} was stopped: it goes on, and takes less than what is "
                            "said of a whole run"
                        )
                    ]
                    if stopped
                    else []
                )
                planned, done = self.plan(resolved, teaches=True)
                first.append(planned)
                self._elsewhere = before + time.perf_counter() - began
            self._trained[digest] = done
        return self._trained[digest]

    def plan_teacher(self, resolved: Resolved) -> Plan:
        """The plan of a recipe whose trial run then stands in for it, wherever it is named as a
        teacher.
        """
        planned, self._trained[recipe_hash(resolved.recipe)] = self.plan(resolved, teaches=True)
        return planned

    def _networks(self, job: Job) -> Iterator[PlannedNetwork]:
        """The networks of a run: teachers first, the one that is trained last."""
        role: Literal["teacher", "reference"] = "teacher" if job.teachers else "reference"
        for loaded in job.teachers or ((job.reference,) if job.reference is not None else ()):
            there = loaded.summary.checkpoint
            stands_in = there.startswith(str(self._folder))
            network = loaded.teacher.network
            if isinstance(network, NoNetwork):
                continue
            yield PlannedNetwork(
                role,
                loaded.architecture,
                parameter_count(network),
                _macs(job, network),
                "" if stands_in else there,
            )
        trained = job.method.deployable()
        own: Literal["student", "model"] = (
            "student" if isinstance(job.recipe, DistillRecipe) else "model"
        )
        yield PlannedNetwork(
            own, architecture(trained), parameter_count(trained), _macs(job, trained)
        )

    @contextmanager
    def _code_compiled_elsewhere(self, job: Job) -> Iterator[list[float]]:
        """Keeps what the trial run compiles from the run, if these networks were never compiled:
        the run then meets what the trial run has met.

        Gives the seconds that this takes: imports, which otherwise the first step makes.
        """
        if job.runtime.compile_choice.value != "on" or job.compiled.exists():
            yield [0.0]
            return
        began = time.perf_counter()
        from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

        with temporary_cache_dir(str(self._folder / "inductor")):
            yield [time.perf_counter() - began]


def _macs(job: Job, network: Network) -> int:
    shape = job.feed.info.input_shape
    return macs(network, shape, torch.zeros(1, *shape, device=job.runtime.device))
