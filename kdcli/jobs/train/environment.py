"""Writes environment.json: versions, machine, and every automatic choice with its reason."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kdcli import __version__, catalog, clean, trust
from kdcli.core.classes import shown
from kdcli.core.network import parameter_count
from kdcli.engine.runtime import Runtime
from kdcli.engine.teachers.inference import InferenceTeacher
from kdcli.engine.teachers.sharded import share_held
from kdcli.errors import KdError, UsageError, shortened
from kdcli.files import write_json, write_text
from kdcli.jobs.build import data_subset, sights
from kdcli.jobs.build.header import architecture
from kdcli.jobs.build.job import Job
from kdcli.jobs.build.logit_cache import Stored
from kdcli.jobs.build.teachers import LoadedTeacher
from kdcli.jobs.events import Prepared
from kdcli.jobs.measure.chance import teacher_warnings
from kdcli.recipe.schema import Recipe
from kdcli.recipe.writing import recipe_hash
from kdcli.results.environment import RunEnvironment
from kdcli.results.preprocessing import Preprocessing
from kdcli.runs.manifest import read_record
from kdcli.typed import from_dict


def now() -> str:
    """The time, UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _git() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    return None


def environment(command: str) -> dict[str, Any]:
    """Versions and machine, as far as they do not depend on the run."""
    return {
        "kdcli": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "git": _git(),
        "command": command,
        "started": now(),
    }


def write_environment(run: Path, job: Job, command: str) -> None:
    """Writes environment.json, and which weights the teachers have."""
    runtime, feed = job.runtime, job.feed
    write_json(
        run / "environment.json",
        {
            "kind": job.recipe.KIND,
            "recipe_sha256": recipe_hash(job.recipe),
            "recipe": job.recipe.model_dump(mode="json", exclude_none=True),
            **environment(command),
            "folder": str(Path.cwd()),
            "devices": runtime.ranks.size,
            "device": str(runtime.device),
            "device_name": runtime.device_name(),
            "device_reason": runtime.device_choice.reason,
            "precision": runtime.precision_choice.value,
            "precision_reason": runtime.precision_choice.reason,
            "compile": runtime.compile_choice.value,
            "compile_reason": runtime.compile_choice.reason,
            "graphs": runtime.graphs_choice.value,
            "graphs_reason": runtime.graphs_choice.reason,
            "threads": runtime.threads,
            "threads_reason": runtime.threads_choice.reason,
            "channels_last": runtime.channels_last,
            "channels_last_reason": runtime.layout_choice.reason,
            "teacher_precision": runtime.teacher_choice.value,
            "teacher_images": int(runtime.teacher_batch_choice.value or 0) or None,
            "teacher_graphs": [_graph(loaded, runtime) for loaded in job.teachers if loaded.faster],
            "sees": {
                "network": asdict(feed.info.pixels),
                "teachers": [asdict(_pixels(job, loaded)) for loaded in job.teachers],
            },
            "teacher_logits": [_stored_logits(stored) for stored in job.stored],
            "data": {
                "name": feed.info.name,
                "fingerprint": feed.info.fingerprint,
                "train": feed.size("train"),
                "val": feed.size("val"),
                "test": feed.size("test"),
                **data_subset.kept(feed.info),
            },
        },
    )
    lines = [
        clean.line(f"{loaded.summary.checkpoint}  sha256:{loaded.summary.sha256}")
        for loaded in job.teachers
    ]
    if lines:
        write_text(run / "teacher.txt", "\n".join(lines) + "\n")


def read_environment(run: Path) -> RunEnvironment:
    """What `write_environment` wrote, typed.

    Raises:
        NotFound: no such file.
        CorruptFile: it is damaged.
    """
    path = run / "environment.json"
    return from_dict(RunEnvironment, read_record(path), path)


@contextlib.contextmanager
def folder_of(run: Path) -> Iterator[Path]:
    """Within it the working directory is the one that a run was started in, from which the paths in
    its recipe start; gives the run as it is called from there. Where that folder is not there any
    more, or nothing says it, everything is as it was.
    """
    folder = ""
    with contextlib.suppress(KdError):  # whoever needs it will say what is wrong with it
        folder = read_environment(run).folder
    if not folder or not Path(folder).is_dir() or Path(folder) == Path.cwd():
        yield run
        return
    run = run.absolute()
    with contextlib.chdir(folder):
        yield run


def check_recipe(run: Path, recipe: Recipe, environment: RunEnvironment) -> None:
    """Refuses to go on with a run whose recipe.toml is not the one that it began with.

    Raises:
        UsageError: what was changed since, by key.
    """
    if recipe_hash(recipe) == environment.recipe_sha256:
        return
    before = _flat(environment.recipe)
    now = _flat(recipe.model_dump(mode="json", exclude_none=True))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    what = (
        f"{changed[0]} is {shortened(str(now.get(changed[0], 'left out')), 60)}, and the run "
        f"began with {shortened(str(before.get(changed[0], 'none')), 60)}"
        if before and changed
        else "its recipe, or a file that it names, is not what it was"
    )
    raise UsageError(
        f"{run} cannot go on: {what}",
        hint=f"put {run / 'recipe.toml'} back, or start a run of its own with kd {recipe.KIND}",
    )


def resume_command(run: Path, job: Job) -> str:
    """The command that goes on with a run; of one that needs Python files, trusting these."""
    named = [job.recipe.model_dump(), *(loaded.architecture for loaded in job.teachers)]
    return f"kd resume {run}{trust.option(named)}"


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    if isinstance(value, Mapping):
        parts = (_flat(item, f"{key}.{name}" if key else name) for name, item in value.items())
        return {name: item for part in parts for name, item in part.items()}
    return {key: value}


def prepared(job: Job, run: Path, notes: Sequence[str], resumed_at: str | None) -> Prepared:
    """What the first lines of a run's screen show.

    Args:
        notes: what was chosen when the recipe was resolved. resumed_at: where it goes on, None at
            the beginning.
    """
    recipe, info = job.recipe, job.feed.info
    deployed = job.method.deployable()
    return Prepared(
        command=recipe.KIND,
        run=str(run),
        network=architecture(deployed),
        parameters=parameter_count(deployed),
        teachers=tuple(loaded.summary for loaded in job.teachers),
        data=info.name,
        train=job.feed.size("train"),
        val=job.feed.size("val"),
        test=job.feed.size("test"),
        classes=info.num_classes,
        input_shape=info.input_shape,
        devices=job.runtime.ranks.size,
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
        notes=(
            *notes,
            *_sight_notes(job),
            *job.notes,
            *info.notes,
            *_superclass_notes(job),
            *data_subset.notes(recipe.data, info, job.ranked_by),
            *_cache_notes(job),
        ),
        warnings=() if resumed_at else tuple(teacher_warnings(job)),
        resumed_at=resumed_at,
    )


def _choices(job: Job) -> tuple[str, ...]:
    """What was chosen to make training fast, and why."""
    runtime = job.runtime
    compiled = "compiled" if runtime.compile_choice.value == "on" else "not compiled"
    lines = [f"{compiled}: {runtime.compile_choice.reason}"]
    if runtime.threads_choice.reason:
        lines.append(f"threads {runtime.threads}: {runtime.threads_choice.reason}")
    if runtime.layout_choice.reason:
        layout = runtime.layout_choice.value.replace("_", " ")
        lines.append(f"images {layout}: {runtime.layout_choice.reason}")
    if runtime.untuned:
        lines.append(runtime.untuned)
    if runtime.device.type == "cuda":
        lines.append(
            f"{'with' if runtime.recorder is not None else 'without'} CUDA graphs: "
            f"{runtime.graphs_choice.reason}"
        )
    for loaded in (loaded for loaded in job.teachers if loaded.faster):
        graph = _graph(loaded, runtime)
        norms = (
            f", {graph['folded']} of {graph['norms']} batch norms folded" if graph["norms"] else ""
        )
        ahead = f", {runtime.ahead} minibatches at once" if runtime.ahead > 1 else ""
        lines.append(
            f"teacher {loaded.architecture} in {graph['precision']}{norms}{ahead}: "
            f"{graph['reason']}"
        )
        if runtime.shards:
            lines.append(
                f"{runtime.ranks.size} ranks share teacher {loaded.architecture}: this one holds "
                f"{share_held(loaded.teacher.network):.0%} of its weights"
            )
    return tuple(dict.fromkeys(lines))


def _graph(loaded: LoadedTeacher, runtime: Runtime) -> dict[str, str | int]:
    """The copy of a teacher's network that answers in training."""
    asked = loaded.asked
    assert isinstance(asked, InferenceTeacher)
    choice = runtime.teacher_choice
    return {
        "precision": choice.value,
        "reason": choice.reason,
        "norms": asked.norms,
        "folded": asked.folded,
        "minibatches": runtime.ahead,
    }


_VIEWS = {
    "fixed": "sees each training picture as it is, whatever its student sees of it",
    "independent": "sees another view of each training picture than its student",
}


def _pixels(job: Job, loaded: LoadedTeacher) -> Preprocessing:
    """What a teacher sees of a picture."""
    info, teacher = job.feed.info, loaded.teacher
    if teacher.sees is not None:
        return teacher.sees.pixels
    if teacher.renormalise is None:
        return info.pixels
    # x * scale + shift = (x * our_std + our_mean - mean) / std, to six digits
    scale, shift = (part.flatten().tolist() for part in teacher.renormalise)
    std = tuple(own / factor for own, factor in zip(info.std, scale, strict=True))
    mean = tuple(own - moved * part for own, moved, part in zip(info.mean, shift, std, strict=True))
    return replace(
        info.pixels,
        mean=tuple(round(value, 6) for value in mean),
        std=tuple(round(value, 6) for value in std),
    )


def _sight_notes(job: Job) -> list[str]:
    """What each network sees of the same picture, where that differs."""
    info = job.feed.info
    teachers = [
        f"teacher {loaded.architecture} {sights.described(_pixels(job, loaded), info)}"
        for loaded in job.teachers
        if _pixels(job, loaded).geometry() != info.pixels.geometry()
    ]
    own = f"student {sights.described(info.pixels, info)}"
    said = ["; ".join(["each sees the same picture in its own pixels", *teachers, own])]
    return (said if teachers else []) + [
        f"teacher {loaded.architecture} {_VIEWS[loaded.teacher.sees.view]}"
        for loaded in job.teachers
        if loaded.teacher.sees is not None and loaded.teacher.sees.view != "same"
    ]


def _superclass_notes(job: Job) -> list[str]:
    """The superclasses that an option of the method gives, as they were understood."""
    method, info = job.method, job.feed.info
    superclass = type(method).superclass(method.options, info)
    if (
        superclass is None
        or superclass is info.superclass
        or (info.superclass is not None and (superclass.tolist() == info.superclass.tolist()))
    ):
        return []
    groups: dict[int, list[str]] = {}
    for number, group in enumerate(superclass.tolist()):
        groups.setdefault(group, []).append(shown(number, info.class_names))
    return ["superclasses: " + "; ".join(", ".join(names) for names in groups.values())]


def _cache_notes(job: Job) -> list[str]:
    """What was decided about stored teacher logits, where a method could use them."""
    if not catalog.entry("method", job.recipe.method.name).facts.get("cacheable"):
        return []
    names = [
        f" of {loaded.architecture}" if len(job.teachers) > 1 else "" for loaded in job.teachers
    ]
    choices = [stored.choice for stored in job.stored]
    return [
        f"teacher logits{name} {_STORED[choice.value]}: {choice.reason}"
        for name, choice in zip(names, choices, strict=True)
    ]


def _stored_logits(stored: Stored) -> dict[str, str | None]:
    table = str(stored.teacher.table.path) if stored.teacher is not None else None
    return {"stored": stored.choice.value, "reason": stored.choice.reason, "table": table}


_STORED = {"exact": "stored", "off": "not stored"}


def _paper(method: str) -> str:
    for line in catalog.entry("method", method).doc.splitlines():
        if line.startswith("Paper:") and not line.startswith("Paper: none"):
            return line.removeprefix("Paper:").strip()
    return ""
