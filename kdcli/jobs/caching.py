"""When a teacher's answers are stored and looked up, where, and why: the choice that `teacher.cache` makes."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from kdcli import catalog
from kdcli.core.types import DataInfo
from kdcli.data.augment import Augmentation
from kdcli.engine.checkpoint import digest
from kdcli.engine.logit_cache import CachedTeacher, LogitTable, Shape
from kdcli.engine.runtime import Choice, Runtime
from kdcli.errors import CorruptFile, Incompatible, KdError, NotWritable
from kdcli.files import sha256_json
from kdcli.jobs.networks import LoadedTeacher
from kdcli.report import words

Wanted = Literal["auto", "exact", "off"]

_WORTH = 0.25  # least share of the teacher's passes that a table must save
_MOST_BYTES = 4 * 2**30
_MOST_OF_FREE = 0.1  # of the disk


@dataclass(frozen=True, slots=True)
class Views:
    """What is to be answered: which images, how they vary, and how often each is asked for."""

    info: DataInfo
    augment: Augmentation
    epochs: int

    @property
    def shape(self) -> Shape | None:
        """Of the table, or None where views are beyond counting."""
        views = self.augment.views
        return None if views is None else Shape(self.info.num_train, views, self.info.num_classes)

    def saved(self, views: int) -> float:
        """Share of the teacher's passes that an empty table saves: draws that meet a view again."""
        distinct = views * (1 - (1 - 1 / views) ** self.epochs)
        return 1 - distinct / self.epochs


@dataclass(frozen=True, slots=True)
class Stored:
    """A teacher as a method is to ask it, and what was decided for it."""

    teacher: CachedTeacher | None
    choice: Choice


def table_key(loaded: LoadedTeacher, views: Views, runtime: Runtime) -> dict[str, object]:
    """All that a table's content depends on."""
    teacher, augment = loaded.teacher, views.augment
    scale = None if teacher.renormalise is None else [part.flatten().tolist() for part in teacher.renormalise]
    return {
        "teacher": loaded.summary.sha256 or digest(teacher.network.state_dict()),
        "input": {"mean": views.info.mean, "std": views.info.std, "renormalise": scale},
        "data": views.info.fingerprint,
        "images": views.info.positions_sha256,
        "views": {name: value for name, value in asdict(augment).items() if name in {"crop", "padding", "flip"}},
        "arithmetic": f"{runtime.device.type} {runtime.precision_choice.value}",
    }


def table_path(key: dict[str, object]) -> Path:
    """Where a table lies: under $KD_CACHE_DIR, or the user's cache."""
    return catalog.cache_root() / "logits" / f"{sha256_json(key)[:32]}.safetensors"


def open_table(path: Path, key: dict[str, object], shape: Shape) -> tuple[LogitTable, str]:
    """A table, and a remark where a damaged one was made again.

    Raises:
        DiskFull, NotWritable: there is no room for it, or no right to write there.
    """
    try:
        return LogitTable(path, key, shape), ""
    except CorruptFile as error:
        path.unlink(missing_ok=True)
        return LogitTable(path, key, shape), f"; {error.message}: made again"


def store(wanted: Wanted, loaded: LoadedTeacher, views: Views, runtime: Runtime) -> Stored:
    """A teacher whose answers are looked up, where that was asked for or pays.

    Raises:
        Incompatible: stored answers were asked for, and the views of these images cannot be counted.
        DiskFull, NotWritable: they were asked for, and cannot be written.
    """
    shape = views.shape
    if wanted == "off":
        return Stored(None, Choice("off", "asked for"))
    if shape is None:
        if wanted == "exact":
            raise Incompatible(
                "teacher.cache is exact, and a random resized crop has no countable views",
                hint='teacher.cache = "off", or data.augment.crop instead of data.augment.resized_crop',
            )
        return Stored(None, Choice("off", "auto: a random resized crop has no countable views"))
    key = table_key(loaded, views, runtime)
    path = table_path(key)
    choice = Choice("exact", "asked for") if wanted == "exact" else _choose(views, shape, path)
    if choice.value == "off":
        return Stored(None, choice)
    try:
        table, remark = open_table(path, key, shape)
    except KdError as error:
        if wanted == "exact":
            raise
        return Stored(None, Choice("off", f"auto: {error.message}"))
    return Stored(CachedTeacher(loaded.teacher, table), Choice("exact", f"{choice.reason}{remark}"))


def _choose(views: Views, shape: Shape, path: Path) -> Choice:
    size = words.disk(shape.bytes)
    if path.exists():
        return Choice("exact", f"auto: answers of this teacher to these images are stored already, {size}")
    saved = views.saved(shape.views)
    share = f"{saved:.0%} of the teacher's passes in {views.epochs} epochs over {shape.views} view{'s' * (shape.views > 1)} an image"
    if saved < _WORTH:
        return Choice("off", f"auto: stored answers would save {share}")
    free = _free_bytes(path)
    if shape.bytes > min(_MOST_BYTES, _MOST_OF_FREE * free):
        return Choice("off", f"auto: a table of {size} is too much for {free / 1e9:,.1f} GB of free disk")
    return Choice("exact", f"auto: saves {share}, {size}")


def _free_bytes(path: Path) -> int:
    there = next(folder for folder in path.parents if folder.exists())
    try:
        return shutil.disk_usage(there).free
    except OSError as error:
        raise NotWritable(f"cannot look at {there}: {error.strerror}") from error
