"""Decides whether a teacher's answers are stored and looked up, where, with the reason:
`teacher.cache`.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch

from kdcli import formatting, tasks, trust
from kdcli.core.types import DataInfo
from kdcli.data.augment import RULE, Augmentation
from kdcli.data.feed import Decode
from kdcli.engine.checkpoint import digest
from kdcli.engine.distributed import Ranks
from kdcli.engine.hardware import Choice
from kdcli.engine.runtime import Runtime
from kdcli.engine.teachers.cached import CachedTeacher
from kdcli.engine.teachers.logit_table import LogitTable
from kdcli.engine.teachers.row_format import MOST_CLASSES_OF_TOP, Shape
from kdcli.engine.teachers.stored_text import StoredText
from kdcli.errors import CorruptFile, DiskFull, Incompatible, KdError, NotWritable
from kdcli.files import sha256_file, sha256_json, write_error
from kdcli.jobs.build.teachers import LoadedTeacher
from kdcli.recipe.schema import TeacherSection
from kdcli.surroundings import cache_root

Wanted = Literal["auto", "exact", "off"]

COUNTED = "data.views = 8 gives each image so many"

_WORTH = 0.25  # least share of the teacher's passes that a table must save
_MOST_BYTES = 4 * 2**30
_MOST_OF_FREE = 0.1  # of the disk
_DEVICE_SHARE = 8  # a copy of a table on a GPU takes at most this part of what is free there


@dataclass(frozen=True, slots=True)
class Views:
    """What is to be answered: which images, how they vary, and how often each is asked for.

    runs: how many runs of so many epochs will ask. top: how many logits of each answer are kept,
    None for all.
    decode: what decodes image files; pixels may differ by it. reading: parts and window of a text
    that is read from its beginning; None of samples that are asked about one by one.
    """

    info: DataInfo
    augment: Augmentation
    epochs: int
    runs: int = 1
    top: int | None = None
    decode: Decode = "workers"
    reading: tuple[int, int] | None = None

    @property
    def shape(self) -> Shape | None:
        """Of the table, or None where views are beyond counting.

        Raises:
            Incompatible: `top` leaves nothing out, or cannot be stored.
        """
        classes = self.info.num_classes
        views = None if self.augment.mixes else self.augment.views
        if self.top is not None and self.top >= classes:
            problem = (
                f"teacher.cache_top is {self.top}, and {self._have} {classes:,} "
                f"{self.answers}: nothing would be left out"
            )
            raise Incompatible(
                problem, hint=f"leave teacher.cache_top out, or set it to {classes - 1} at most"
            )
        if self.top is not None and classes > MOST_CLASSES_OF_TOP:
            raise Incompatible(
                f"teacher.cache_top is for {MOST_CLASSES_OF_TOP:,} {self.answers} at most, and "
                f"{self._have} {classes:,}",
                hint="leave it out",
            )
        return None if views is None else Shape(self.info.num_train, views, classes, self.top)

    @property
    def answers(self) -> str:
        """What is chosen among, in a word."""
        return "classes" if self.reading is None else "tokens"

    @property
    def _have(self) -> str:
        task = tasks.named(self.info.task)
        return f"the {task.sample}s have" if self.reading is None else "the vocabulary has"

    def of(self, teacher: TeacherSection) -> Views:
        """What one teacher is asked: one view of an image where it sees it as it is."""
        as_it_is = teacher.view == "fixed" and not self.augment.mixes
        augment = Augmentation() if as_it_is else self.augment
        return replace(self, top=teacher.cache_top, augment=augment)

    @property
    def uncountable(self) -> str:
        """Why views are beyond counting, in a few words."""
        if self.augment.mixes:
            return "mixtures of pictures never come again"
        return f"{self.augment.uncountable} has no countable views"

    @property
    def remedy(self) -> str:
        """What makes them countable, or what to do without."""
        return "data.augment without mixup and cutmix" if self.augment.mixes else COUNTED

    def saved(self, views: int) -> float:
        """Share of the teacher's passes that an empty table saves: draws that meet a view again."""
        draws = self.runs * self.epochs
        distinct = views * (1 - (1 - 1 / views) ** draws)
        return 1 - distinct / draws


@dataclass(frozen=True, slots=True)
class Stored:
    """A teacher as a method is to ask it, and what was decided for it.

    place: of its table, or of the one that a trial run would have made. there: rows that a
    trial run found in it.
    """

    teacher: CachedTeacher | None
    choice: Choice
    place: Path | None = None
    there: int = 0


def table_key(loaded: LoadedTeacher, views: Views, runtime: Runtime) -> dict[str, object]:
    """All that a table's content depends on."""
    teacher = loaded.teacher
    scale = (
        None
        if teacher.renormalise is None
        else [part.flatten().tolist() for part in teacher.renormalise]
    )
    key: dict[str, object] = {
        "teacher": loaded.summary.sha256 or loaded.weights or digest(teacher.network.state_dict()),
        "input": {"mean": views.info.mean, "std": views.info.std, "renormalise": scale},
        "data": views.info.fingerprint,
        "images": views.info.positions_sha256,
        "views": {"rule": RULE, **views.augment.identity()},
        "arithmetic": f"{runtime.device.type} {runtime.teacher_choice.value}",
        "rows": runtime.teacher_rows,
    }
    file = trust.python_file(loaded.architecture)
    sees = teacher.sees
    more = {
        # where it is not the data's own, and what that is: it decides how far a crop moves
        "sees": None if sees is None else [asdict(sees), views.info.pixels.geometry()],
        "top": views.top,
        "reading": None if views.reading is None else list(views.reading),
        # what is stored is what the map makes of the answers
        "classes": loaded.groups,
        "decode": None if views.decode == "workers" else views.decode,
        # the same weights in other code answer otherwise
        "code": None if file is None else sha256_file(file),
    }
    return key | {name: value for name, value in more.items() if value is not None}


def table_path(key: dict[str, object]) -> Path:
    """Where a table lies: under $KD_CACHE_DIR, or the user's cache."""
    return cache_root() / "logits" / f"{sha256_json(key)[:32]}.safetensors"


def open_table(path: Path, key: dict[str, object], shape: Shape) -> tuple[LogitTable, str]:
    """A table, and a remark where a damaged one was made again.

    Raises:
        DiskFull, NotWritable: there is no room for it, or no right to write there.
    """
    try:
        try:
            return LogitTable(path, key, shape), ""
        except CorruptFile as error:
            path.unlink()
            return LogitTable(path, key, shape), f"; {error.message}: made again"
    except OSError as error:
        raise _unusable(write_error(error, path)) from error
    except (DiskFull, NotWritable) as error:
        raise _unusable(error) from error


def _unusable(error: KdError) -> KdError:
    free = "free some space, or " if isinstance(error, DiskFull) else ""
    error.hint = f"{free}set $KD_CACHE_DIR to another folder"
    return error


def store(
    wanted: Wanted,
    loaded: LoadedTeacher,
    views: Views,
    runtime: Runtime,
    trial_tables: Path | None = None,
) -> Stored:
    """A teacher whose answers are looked up, where that was asked for or pays.

    Args:
        trial_tables: a folder for the table instead of the cache, for a run that is only tried.

    Raises:
        Incompatible: stored answers were asked for, and the views of these images cannot be
            counted; or as Views.shape.
        DiskFull, NotWritable: they were asked for, and cannot be written.
    """
    shape = views.shape
    if wanted == "off":
        return Stored(None, Choice("off", "asked for"))
    if shape is None:
        if wanted == "exact":
            raise Incompatible(
                f"teacher.cache is exact, and {views.uncountable}",
                hint=f'{views.remedy}, or teacher.cache = "off"',
            )
        return Stored(None, Choice("off", f"auto: {views.uncountable}"))
    key = table_key(loaded, views, runtime)
    path = table_path(key)
    choice = (
        Choice("exact", f"asked for{_left_out(shape)}{_by_token(views, shape)}")
        if wanted == "exact"
        else _choose(views, shape, path)
    )
    if choice.value == "off":
        return Stored(None, choice)
    try:
        table, remark, there = (
            (*open_table(path, key, shape), 0)
            if trial_tables is None
            else trial_table(trial_tables, path, key, shape)
        )
    except KdError as error:
        if wanted == "exact":
            raise
        return Stored(None, Choice("off", f"auto: {error.message}"))
    kind = CachedTeacher if views.reading is None else StoredText
    cached = kind(loaded.asked, table, room=lambda: _room(runtime.device), agree=runtime.agree)
    return Stored(cached, Choice("exact", f"{choice.reason}{remark}"), path, there)


def trial_table(
    folder: Path, path: Path, key: dict[str, object], shape: Shape
) -> tuple[LogitTable, str, int]:
    """What `open_table` would give, without a trace in the cache: the full table that is there,
    else an empty one that nobody keeps.

    Returns:
        The table, the remark of `open_table`, and how many rows are stored at `path`.

    Raises:
        As `open_table`, as far as that can be known.
    """
    there, remark = 0, ""
    try:
        if path.exists():
            found = LogitTable(path, key, shape)
            there = found.filled
            if there == shape.rows:
                return found, "", there
        elif _free_bytes(path) < shape.bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301  as writing it would
        elif not os.access(_nearest(path), os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))  # noqa: TRY301
    except CorruptFile as error:
        remark = f"; {error.message}: made again"
    except OSError as error:
        raise _unusable(write_error(error, path)) from error
    return LogitTable(folder / path.name, key, shape, reserve=False), remark, there


def _choose(views: Views, shape: Shape, path: Path) -> Choice:
    size = formatting.disk(shape.bytes)
    if path.exists():
        return Choice(
            "exact",
            tasks.named(views.info.task).worded(
                "auto: answers of this teacher to these images are stored already, "
            )
            + f"{size}{_left_out(shape)}",
        )
    saved = views.saved(shape.views)
    runs = f"{views.runs} runs of " if views.runs > 1 else ""
    often = (
        f"in {runs}{formatting.plural(views.epochs, 'epoch', ' ')} over "
        f"{formatting.plural(shape.views, 'view', ' ')} an image"
    )
    if views.reading is not None:
        often = f"in {runs}{formatting.plural(views.epochs, 'epoch', ' ')}"
    share = f"{saved:.0%} of the teacher's passes {often}"
    if saved < _WORTH:
        return Choice("off", f"auto: stored answers would save {share}")
    free = _free_bytes(path)
    if shape.bytes > min(_MOST_BYTES, _MOST_OF_FREE * free):
        return Choice(
            "off", f"auto: a table of {size} is too much for {free / 1e9:,.1f} GB of free disk"
        )
    return Choice(
        "exact", f"auto: saves {share}, {size}{_left_out(shape)}{_by_token(views, shape)}"
    )


def _by_token(views: Views, shape: Shape) -> str:
    """The size of a row of a text's table, which is filled before training begins."""
    if views.reading is None:
        return ""
    return f"; {shape.bytes // shape.rows:,} bytes a token, one pass over the text before training"


def _left_out(shape: Shape) -> str:
    """What a table does not hold: that changes what a student is taught."""
    return (
        f", the {shape.top} largest of {shape.classes} logits and what the others weigh together"
        if shape.top is not None
        else ""
    )


def _room(device: torch.device) -> int:
    """Bytes that a copy of a table may take on a device: none on a CPU, which looks up in the file
    as fast.
    """
    return torch.cuda.mem_get_info(device)[0] // _DEVICE_SHARE if device.type == "cuda" else 0


def _nearest(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.exists())


def _free_bytes(path: Path) -> int:
    there = _nearest(path)
    try:
        return shutil.disk_usage(there).free
    except OSError as error:
        raise NotWritable(f"cannot look at {there}: {error.strerror}") from error


def alike(
    ranks: Ranks,
    make: Callable[[Sequence[Wanted] | None], tuple[Stored, ...]],
    decided: Sequence[Wanted] | None,
) -> tuple[Stored, ...]:
    """What rank 0 decides, on every rank: the others open the tables that it has made.

    Args:
        make: the choices, from what was decided before or None. decided: that of an earlier
            session.
    """
    own: list[tuple[Stored, ...]] = []

    def decide() -> list[Wanted]:
        own.append(make(decided))
        return [cast("Wanted", item.choice.value) for item in own[0]]

    values = ranks.from_first(decide)
    return own[0] if own else make(values)
