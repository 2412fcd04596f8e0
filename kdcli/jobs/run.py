"""One run from recipe to report: assemble, reserve a directory, train, measure, write. Resuming is the same with a state."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, cast

import torch

from kdcli import catalog
from kdcli.core.network import Network, parameter_count
from kdcli.core.types import Progress
from kdcli.engine.checkpoint import State, load_state, load_weights, save_model
from kdcli.engine.inference import InferenceTeacher
from kdcli.engine.runtime import Runtime
from kdcli.engine.trainer import Hooks, Trainer, set_modes
from kdcli.errors import KdError, NotFound, UsageError
from kdcli.files import read_json, write_json, write_text
from kdcli.header import MODEL_FILE
from kdcli.jobs import compiling, restricted, rundir
from kdcli.jobs.assemble import Job, assemble, network_section, train_settings
from kdcli.jobs.caching import Stored
from kdcli.jobs.events import EpochDone, Event, Listener, Prepared
from kdcli.jobs.finish import Outcome, architecture, check_gates, make_header, measure_outcome, validation
from kdcli.jobs.networks import LoadedTeacher
from kdcli.jobs.probe import Prober
from kdcli.jobs.stop import StopRequest
from kdcli.recipe.resolve import Resolved, resolve, resolve_teacher
from kdcli.recipe.schema import DistillRecipe, Recipe, TeacherSection
from kdcli.recipe.source import dump, recipe_hash
from kdcli.report.build import build as build_report
from kdcli.report.sweeps import finished_runs
from kdcli.results import RunResult


def execute(
    resolved: Resolved,
    *,
    out: Path,
    listeners: Sequence[Listener] = (),
    command: str = "",
    dry_run: bool = False,
    keep_state: bool = False,
    runs: int = 1,
) -> RunResult | None:
    """Run a resolved recipe; returns what summary.json holds, or None after a dry run.

    Args:
        out: folder of the runs. command: the command line, for environment.json.
        dry_run: build everything, put one minibatch through loss and backward pass, write nothing.
        keep_state: leave RUN/state behind after success.
        runs: how many runs will ask its teachers for the same answers, this one counted.

    Raises:
        KdError: see docs/reference/exit-codes.md.
    """
    recipe = resolved.recipe
    if dry_run:
        _try(recipe, out)
        return None
    job = assemble(recipe, lambda teacher: teacher_of(teacher, recipe, out=out, listeners=listeners), runs=runs)
    parts = (recipe.method.name, network_section(recipe).name) if isinstance(recipe, DistillRecipe) else (network_section(recipe).name,)
    run = rundir.reserve(out, rundir.run_name(*parts, recipe.data.name), recipe.name)
    write_text(run / "recipe.toml", dump(recipe, resolved.origins))
    _write_environment(run, job, command)
    return _Execution(run, job, listeners, resolved.notes, keep_state=keep_state).go(None)


def resume(run: Path, *, listeners: Sequence[Listener] = (), keep_state: bool = False) -> RunResult:
    """Go on with a run that was stopped; on a CPU the result has the very bits of one that never stopped.

    Raises:
        NotFound: no run there, or it was stopped before its first state. UsageError: it is finished, or another process is at it.
    """
    recipe_file = run / "recipe.toml"
    if not recipe_file.is_file():
        raise NotFound(f"{run} is not a run directory: it holds no recipe.toml", hint="kd resume RUN, with a folder under runs/")
    if (run / "summary.json").is_file():
        raise UsageError(f"{run} is finished: there is nothing to resume", hint=f"kd report {run}")
    environment = read_json(run / "environment.json")
    kind = cast("Literal['train-teacher', 'distill']", environment["kind"])
    recipe = resolve(kind, file=recipe_file).recipe
    # whether a table is used must not depend on what others have stored since
    decided = [item["stored"] for item in environment.get("teacher_logits", ())]
    job = assemble(
        recipe,
        lambda teacher: teacher_of(teacher, recipe, out=run.parent, listeners=listeners),
        decided=decided,
        compiled=environment.get("compile", "off"),
    )
    restricted.check_same(environment, job.feed.info)
    state = load_state(run / rundir.STATE_FOLDER) if any((run / rundir.STATE_FOLDER).glob("state-*")) else None
    return _Execution(run, job, listeners, (), keep_state=keep_state).go(state, resumed=True)


def teacher_of(section: TeacherSection, student: Recipe, *, out: Path, listeners: Sequence[Listener] = ()) -> Path:
    """The run of a teacher's recipe: found by content hash, resumed if it was stopped, trained if there is none.

    Args:
        section: names the recipe, and perhaps another length.
        student: the recipe that asks for it: where the data lie and where to compute hold for its teacher too.
    """
    resolved, command = teacher_recipe(section, student)
    return obtain(resolved, out=out, listeners=listeners, command=command)[0]


def teacher_recipe(section: TeacherSection, student: Recipe) -> tuple[Resolved, str]:
    """What is run where a recipe names a teacher's recipe, and the command line that its environment.json shows."""
    length = f" (teacher.epochs = {section.epochs}, {section.schedule or 'scaled'})" if section.epochs is not None else ""
    place = {"data.root": student.data.root, "runtime.device": student.runtime.device, "runtime.threads": student.runtime.threads}
    values = {key: value for key, value in place.items() if value is not None}
    resolved = resolve_teacher(str(section.recipe), section.epochs, section.schedule, values=values)
    return resolved, f"kd train-teacher {section.recipe}{length}"


def obtain(
    resolved: Resolved,
    *,
    out: Path,
    listeners: Sequence[Listener] = (),
    command: str = "",
    finished: Mapping[str, Path] | None = None,
    runs: int = 1,
) -> tuple[Path, RunResult | None]:
    """The run of a recipe: found by content hash, gone on with if it was stopped, made if there is none.

    Args:
        finished: what `finished_runs(out)` says, for a caller who asks for many.
        runs: as for `execute`.

    Returns:
        Its directory, and its result if it was made now.
    """
    digest = recipe_hash(resolved.recipe)
    done = (finished_runs(out) if finished is None else finished).get(digest)
    if done is not None:
        return done, None
    stopped = rundir.unfinished_run(out, digest)
    if stopped is not None:
        return stopped, resume(stopped, listeners=listeners)
    result = execute(resolved, out=out, listeners=listeners, command=command, runs=runs)
    assert result is not None
    return Path(result.run), result


def _try(recipe: Recipe, out: Path) -> None:
    """Build everything and put a minibatch through every stage. A teacher that is yet to be trained is tried with fresh weights."""
    with tempfile.TemporaryDirectory() as folder:

        def teacher(section: TeacherSection) -> Path:
            resolved, _ = teacher_recipe(section, recipe)
            done = finished_runs(out).get(recipe_hash(resolved.recipe))
            return done if done is not None else _untrained(resolved.recipe, Path(folder) / recipe_hash(resolved.recipe))

        _try_one_batch(assemble(recipe, teacher, decided=(), compiled="off"))


def _untrained(recipe: Recipe, folder: Path) -> Path:
    """The checkpoint that a teacher's recipe begins with."""
    job = assemble(recipe, lambda _section: folder, decided=(), compiled="off")  # train-teacher has no teacher
    _try_one_batch(job)
    save_model(folder / MODEL_FILE, job.method.deployable(), make_header(job, job.method.deployable(), None, ""))
    return folder


def _try_one_batch(job: Job) -> None:
    batch = job.runtime.place(next(iter(job.feed.train(1))))
    for stage in job.method.stages():
        set_modes(job.method, stage)
        at = Progress(stage.name, 1, 1, 0, 1)
        job.method.on_epoch(at)
        with torch.random.fork_rng(), job.runtime.autocast():
            step = stage.loss(batch, at)
        job.runtime.backward(torch.stack([value.float() for value in step.losses.values()]).sum())


def _write_environment(run: Path, job: Job, command: str) -> None:
    runtime, feed = job.runtime, job.feed
    write_json(
        run / "environment.json",
        {
            "kind": job.recipe.KIND,
            "recipe_sha256": recipe_hash(job.recipe),
            **rundir.environment(command),
            "device": str(runtime.device),
            "device_name": runtime.device_name(),
            "device_reason": runtime.device_choice.reason,
            "precision": runtime.precision_choice.value,
            "precision_reason": runtime.precision_choice.reason,
            "compile": runtime.compile_choice.value,
            "compile_reason": runtime.compile_choice.reason,
            "threads": runtime.threads,
            "teacher_graphs": [_graph(loaded, runtime) for loaded in job.teachers],
            "teacher_logits": [_stored_logits(stored) for stored in job.stored],
            "data": {
                "name": feed.info.name,
                "fingerprint": feed.info.fingerprint,
                "train": feed.size("train"),
                "val": feed.size("val"),
                "test": feed.size("test"),
                **restricted.kept(feed.info),
            },
        },
    )
    lines = [f"{loaded.summary.checkpoint}  sha256:{loaded.summary.sha256}" for loaded in job.teachers]
    if lines:
        write_text(run / "teacher.txt", "\n".join(lines) + "\n")


class _Execution:
    """Training, measuring and writing of one run, from its reserved directory on."""

    def __init__(self, run: Path, job: Job, listeners: Sequence[Listener], notes: tuple[str, ...], *, keep_state: bool) -> None:
        self.run = run
        self.job = job
        self.listeners = tuple(listeners)
        self.notes = notes
        self.keep_state = keep_state
        self.last_epoch: EpochDone | None = None
        self.epochs: int | None = None
        self.started = time.perf_counter()
        job.runtime.watch_memory()
        self.recipe_sha256 = str(read_json(run / "environment.json")["recipe_sha256"])

    def go(self, state: State | None, *, resumed: bool = False) -> RunResult:
        """Do it all.

        Raises:
            KdError: with the traceback kept in RUN/crash.txt, unless the user stopped the run.
        """
        try:
            with rundir.claimed(self.run), StopRequest(f"kd resume {self.run}") as stop:
                return self._go(state, stop, resumed=resumed)
        except KdError as error:
            if error.exit_code == 1:
                error.crash_file = rundir.write_crash(self.run, error)
            raise
        except Exception as error:
            error.crash_file = rundir.write_crash(self.run, error)  # type: ignore[attr-defined]
            raise

    def _go(self, state: State | None, stop: StopRequest, *, resumed: bool) -> RunResult:
        position = state.facts["position"] if state else {"stage": 0, "epoch": 1, "batch": 0}
        metrics = rundir.MetricsWriter(self.run, (position["stage"] + 1, position["epoch"]) if resumed else None)
        self._emit(self._prepared(f"epoch {position['epoch']}, minibatch {position['batch']}" if resumed else None))
        listeners: tuple[Listener, ...] = (metrics, self._remember, *self.listeners)
        hooks = Hooks(listeners, evaluate=validation(self.job), probe=Prober(self.job), keep=self._keep, stop=stop)
        trainer = Trainer(
            self.job.method,
            self.job.feed,
            self.job.runtime,
            train_settings(self.job.recipe),
            hooks=hooks,
            state_folder=self.run / rundir.STATE_FOLDER,
            resume=state,
        )
        network = self._selected(trainer.run())
        self.epochs = trainer.epochs_of_result() if self.job.recipe.train.select == "last" else None
        outcome = measure_outcome(self.job, network, self.run.name)
        result = self._result(outcome, network, metrics.earlier_seconds)
        self._write(result, outcome, network, metrics)
        return result

    def _emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def _remember(self, event: Event) -> None:
        if isinstance(event, EpochDone):
            compiling.mark(self.job.compiled, self.job.runtime.compile_choice)
            self.last_epoch = event

    def _keep(self, name: str, network: Network) -> None:
        train = self.job.recipe.train
        if name != "best":
            self._save_model(self.run / "checkpoints" / f"{name}.safetensors", network, int(name.removeprefix("epoch-")))
        elif train.keep_best or train.select == "best":
            self._save_model(self._best_path(), network)

    def _best_path(self) -> Path:
        return self.run / "best.safetensors" if self.job.recipe.train.keep_best else self.run / rundir.STATE_FOLDER / "best.safetensors"

    def _save_model(self, path: Path, network: Network, epoch: int | None = None) -> None:
        # weights kept on the way carry no metrics: the test set is touched once, at the end
        save_model(path, network, make_header(self.job, network, None, self.recipe_sha256, epoch))

    def _selected(self, network: Network) -> Network:
        if self.job.recipe.train.select == "best":
            load_weights(self._best_path(), network)
        return network

    def _prepared(self, resumed_at: str | None) -> Prepared:
        job, recipe, info = self.job, self.job.recipe, self.job.feed.info
        deployed = job.method.deployable()
        return Prepared(
            command=recipe.KIND,
            run=str(self.run),
            network=architecture(deployed),
            parameters=parameter_count(deployed),
            teachers=tuple(loaded.summary for loaded in job.teachers),
            data=info.name,
            train=job.feed.size("train"),
            val=job.feed.size("val"),
            test=job.feed.size("test"),
            classes=info.num_classes,
            input_shape=info.input_shape,
            device=str(job.runtime.device),
            device_name=job.runtime.device_name(),
            device_reason=job.runtime.device_choice.reason,
            precision=job.runtime.precision_choice.value,
            precision_reason=job.runtime.precision_choice.reason,
            choices=_choices(job),
            method=recipe.method.name,
            method_options=recipe.method.options,
            method_source=_paper(recipe.method.name),
            epochs=recipe.train.epochs,
            batches=job.feed.train_batches,
            batch_size=recipe.train.batch_size,
            optimiser=recipe.optim.name,
            lr=recipe.optim.lr,
            schedule=recipe.schedule.name,
            notes=(*self.notes, *restricted.notes(recipe.data, info, job.ranked_by), *_cache_notes(job)),
            resumed_at=resumed_at,
        )

    def _result(self, outcome: Outcome, network: Network, earlier_seconds: float) -> RunResult:
        recipe = self.job.recipe
        last = self.last_epoch
        return RunResult(
            command=recipe.KIND,
            run=str(self.run),
            checkpoint=str(self.run / MODEL_FILE),
            name=self.run.name,
            network=architecture(network),
            parameters=parameter_count(network),
            data=recipe.data.name,
            method=recipe.method.name,
            seed=recipe.seed,
            epochs=recipe.train.epochs,
            device=str(self.job.runtime.device),
            precision=self.job.runtime.precision_choice.value,
            test=outcome.test,
            val=outcome.val,
            train_accuracy=last.train_accuracy if last else None,
            per_class=outcome.per_class,
            excluded=outcome.excluded,
            teachers=outcome.teachers,
            reference=outcome.reference,
            gap=outcome.gap,
            gaps=outcome.gaps,
            gates=check_gates(recipe.gates, outcome.test, outcome.gap),
            recipe_sha256=self.recipe_sha256,
            wall_seconds=earlier_seconds + time.perf_counter() - self.started,
            images_per_second=last.images_per_second if last else 0.0,
            peak_memory_mib=self.job.runtime.peak_memory_mib(),
        )

    def _write(self, result: RunResult, outcome: Outcome, network: Network, metrics: rundir.MetricsWriter) -> None:
        save_model(self.run / MODEL_FILE, network, make_header(self.job, network, outcome.test, self.recipe_sha256, self.epochs))
        write_json(self.run / "analysis.json", asdict(outcome.analysis))
        metrics.done({"test_accuracy": result.test.accuracy, "wall_seconds": result.wall_seconds})
        # summary.json last: a run that has one is finished
        write_json(self.run / "summary.json", asdict(result))
        build_report(self.run, html=self.job.recipe.report.html)
        rundir.point_latest(self.run)
        if not self.keep_state:
            rundir.drop_state(self.run)


def _choices(job: Job) -> tuple[str, ...]:
    """What was chosen to make training fast, and why."""
    runtime = job.runtime
    compiled = "compiled" if runtime.compile_choice.value == "on" else "not compiled"
    lines = [f"{compiled}: {runtime.compile_choice.reason}"]
    for loaded in job.teachers:
        graph = _graph(loaded, runtime)
        norms = f", {graph['folded']} of {graph['norms']} batch norms folded" if graph["norms"] else ""
        lines.append(f"teacher {loaded.architecture} in {graph['precision']}{norms}: {graph['reason']}")
    return tuple(dict.fromkeys(lines))


def _graph(loaded: LoadedTeacher, runtime: Runtime) -> dict[str, str | int]:
    """The copy of a teacher's network that answers in training."""
    asked = loaded.asked
    assert isinstance(asked, InferenceTeacher)
    choice = runtime.teacher_choice
    return {"precision": choice.value, "reason": choice.reason, "norms": asked.norms, "folded": asked.folded}


def _cache_notes(job: Job) -> list[str]:
    """What was decided about stored teacher logits, where a method could use them."""
    if not catalog.entry("method", job.recipe.method.name).facts.get("cacheable"):
        return []
    names = [f" of {loaded.architecture}" if len(job.teachers) > 1 else "" for loaded in job.teachers]
    choices = [stored.choice for stored in job.stored]
    return [f"teacher logits{name} {_STORED[choice.value]}: {choice.reason}" for name, choice in zip(names, choices, strict=True)]


def _stored_logits(stored: Stored) -> dict[str, str | None]:
    table = str(stored.teacher.table.path) if stored.teacher is not None else None
    return {"stored": stored.choice.value, "reason": stored.choice.reason, "table": table}


_STORED = {"exact": "stored", "off": "not stored"}


def _paper(method: str) -> str:
    for line in catalog.entry("method", method).doc.splitlines():
        if line.startswith("Paper:") and not line.startswith("Paper: none"):
            return line.removeprefix("Paper:").strip()
    return ""
