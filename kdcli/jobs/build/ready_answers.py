"""Ready-made answers of a teacher: a file of logits or probabilities, matched to the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from kdcli import formatting
from kdcli.core.class_map import groups_of, in_words
from kdcli.core.merged_classes import MergedClasses
from kdcli.core.types import Feed, SplitName
from kdcli.data.arrow import pyarrow
from kdcli.engine.runtime import Runtime
from kdcli.engine.teachers.ready import NoNetwork, ReadyAnswers
from kdcli.engine.teachers.row_format import Shape
from kdcli.engine.teachers.row_format import marks as row_marks
from kdcli.errors import BadData, Incompatible, NotFound
from kdcli.files import parse_json, safetensors_header
from kdcli.jobs.build.class_maps import Given
from kdcli.jobs.build.teachers import LoadedTeacher
from kdcli.results.run import TeacherSummary
from kdcli.typed import strict

_HINT = (
    "logits or probabilities [n, K], a row for each training picture in order, or with files [n], "
    "their names; [n, V, K] of V views of each; test_logits or test_probabilities likewise"
)
_LEAST = 1e-12  # of a probability that is 0: its logarithm is -27.6
_KINDS = ("logits", "probabilities")
_FILES = ("files", "file", "path", "filename")  # columns of a table that may hold their names
_SHOWN = 3
_SUM = 1e-2  # of probabilities in half precision


@dataclass(frozen=True, slots=True)
class Rows:
    """Answers as a file has them. by_split: logits [n,M] float32, in order, or [n,V,M] of V views;
    by_file: where the answer to each file stands in `named`, [n,M] or [n,V,M]. class_names: of the
    M columns, empty where the file has none. positions, fingerprint: of the pictures that kd stored
    answers to.
    """

    by_split: Mapping[SplitName, Tensor]
    named: Tensor | None = None
    by_file: Mapping[str, int] | None = None
    class_names: tuple[str, ...] = ()
    positions: str = ""
    fingerprint: str = ""

    @property
    def classes(self) -> int:
        first = self.named if self.named is not None else next(iter(self.by_split.values()))
        return first.shape[-1]


def ready_answers(
    path: str, classes: Given | None, feed: Feed, runtime: Runtime, views: int | None = None
) -> LoadedTeacher:
    """The answers of a file as a teacher of a feed's training pictures, and of its held-out and
    test pictures where there are answers to them.

    Args:
        views: of each training picture, None where they are not numbered (data.views). Answers to
            so many views of each are looked up by the view that is drawn; pictures that are shown
            as they are get the mean of their logits.

    Raises:
        NotFound: no such file. BadData: it holds no answers, or an answer is NaN or no probability.
        Incompatible: not one answer for each picture, or of other classes. UsageError: as
            `groups_of`.
    """
    rows, info = read_answers(Path(path)), feed.info
    words: tuple[str, ...] = ()
    groups = None
    if classes is not None:
        theirs = rows.class_names or tuple(map(str, range(rows.classes)))
        groups = groups_of(classes, info.class_names, theirs)
        words = tuple(in_words(groups, info.class_names, theirs))
    elif rows.classes != info.num_classes or (
        rows.class_names and set(rows.class_names) != set(info.class_names) and not _numbered(rows)
    ):
        raise Incompatible(
            f"{path} has answers of {rows.classes} classes{_listed(rows.class_names)}, {info.name} "
            f"has {info.num_classes}{_listed(info.class_names)}",
            hint="teacher.classes says which of its classes are which of the data's",
        )
    elif rows.class_names and not _numbered(rows):
        groups = groups_of({}, info.class_names, rows.class_names)  # in the order of the data
    found: dict[SplitName, Tensor] = {}
    for split in ("train", "val", "test"):
        answers = _of_split(path, rows, feed, split)
        if answers is not None:
            if groups is not None:
                merged = MergedClasses(NoNetwork(path), groups).merged(answers.flatten(0, -2))
                answers = merged.view(*answers.shape[:-1], -1)
            if answers.ndim == 3 and split == "train":
                _check_views(path, answers.shape[1], views)
            elif answers.ndim == 3:
                answers = answers.mean(1)
            found[split] = answers.to(runtime.device)
    teacher = ReadyAnswers(path, found)
    summary = TeacherSummary(path, "", "ready-made answers", 0, None)
    changed = "the student sees them as training changes them"
    remarks = [f"the teacher's answers are to the pictures as they are; {changed}"]
    if found["train"].ndim == 3:
        remarks = [f"the teacher has answers to {views} views of each picture: view m has answer m"]
    if "test" not in found and feed.size("test"):
        remarks.append("there are no answers to the test pictures: the gap is not measured")
    return LoadedTeacher(
        teacher, summary, "ready-made answers", {}, groups=groups, understood=(*words, *remarks)
    )


def _check_views(path: str, answered: int, views: int | None) -> None:
    if answered != views:
        shown = "does not number them" if views is None else f"has {views}"
        raise Incompatible(
            f"{path} has answers to {answered} views of each picture, and the recipe {shown} "
            "(data.views)",
            hint=f"-s data.views={answered}",
        )


def _numbered(rows: Rows) -> bool:
    return rows.class_names == tuple(map(str, range(rows.classes)))


def _listed(names: Sequence[str]) -> str:
    return f" ({formatting.listed(names, _SHOWN)})" if names else ""


def _of_split(path: str, rows: Rows, feed: Feed, split: SplitName) -> Tensor | None:
    """Logits [n,M] of a split's pictures in order; None where the file has none of them."""
    size = feed.size(split)
    if not size:
        return None
    if rows.by_file is not None:
        return _by_name(path, rows, feed, split)
    if rows.positions:  # a table that kd stored, of one training split
        if split != "train":
            return None
        if (rows.fingerprint, rows.positions) != (
            feed.info.fingerprint,
            feed.info.positions_sha256,
        ):
            raise Incompatible(
                f"{path} has stored answers to other training pictures than {feed.info.name} has",
                hint="the same [data], or answers by file name",
            )
        return rows.by_split["train"]
    part: SplitName = "test" if split == "test" else "train"
    if part not in rows.by_split:
        if split == "test":
            return None
        raise Incompatible(
            f"{path} has no answers to training pictures, only to those of the test part",
            hint=_HINT,
        )
    answers, (positions, there) = rows.by_split[part], feed.positions(split)
    if len(answers) != there:
        out = feed.size("val") if part == "train" else 0
        held = f", {out} of them held out" if out else ""
        raise Incompatible(
            f"{path} has {formatting.plural(len(answers), 'answer', ' ')}, and the {part} part of "
            f"{feed.info.name} {formatting.plural(there, 'picture', ' ')}{held}",
            hint="one row a picture, in order; or name them: files",
        )
    return answers[positions.cpu()]


def _by_name(path: str, rows: Rows, feed: Feed, split: SplitName) -> Tensor | None:
    assert rows.by_file is not None
    assert rows.named is not None
    files = feed.files(split)
    if not files:
        raise Incompatible(
            f"{path} has answers by file name, and the pictures of {feed.info.name} are from no "
            "files",
            hint="leave files out: rows in the order of the pictures",
        )
    missing = [name for name in files if name not in rows.by_file]
    if len(missing) == len(files) and split == "test":
        return None
    if missing:
        raise Incompatible(
            f"{path} has no answer to {len(missing)} of {len(files)} {split} pictures: "
            f"{formatting.listed(missing, _SHOWN)}",
            hint="names are as kd evaluate --save-logits writes them: below data.path, with /",
        )
    return rows.named[torch.tensor([rows.by_file[name] for name in files])]


# ---- the file ------------------------------------------------------------------------------------


def read_answers(path: Path) -> Rows:
    """The answers of a .safetensors, .npz or .parquet file, as logits.

    Raises:
        NotFound: no such file. BadData: it holds no answers, or others than numbers. UsageError: a
            package is missing that reads it.
    """
    if not path.is_file():
        raise NotFound(
            f"no such file: {path}", hint="teacher.logits: .safetensors, .npz or .parquet"
        )
    suffix = path.suffix.lower()
    if suffix == ".npz":
        from kdcli.data.datasets.npz import read

        arrays: dict[str, Any] = dict(read(path))
        files = arrays.pop("files", None)
        names = arrays.pop("classes", None)
        return _rows(
            path,
            arrays,
            () if files is None else _texts(path, "files", files),
            () if names is None else _texts(path, "classes", names),
            "train",
        )
    if suffix == ".safetensors":
        return _from_safetensors(path)
    if suffix == ".parquet":
        return _from_parquet(path)
    raise BadData(f"{path} is neither .safetensors nor .npz nor .parquet", hint=_HINT)


def _from_parquet(path: Path) -> Rows:
    """A table with a row a picture: a column of lists, logits or probabilities, and perhaps files,
    names.
    """
    arrow = pyarrow()
    try:
        table = arrow.parquet.read_table(path)
        named = next((name for name in _FILES if name in table.column_names), None)
        columns = {
            name: table[name].to_pylist()
            for name in (*_KINDS, *([named] if named else ()))
            if name in table.column_names
        }
        arrays = {
            name: np.array(columns[name], dtype=np.float32) for name in _KINDS if name in columns
        }
    except (OSError, ValueError, TypeError) as error:  # pyarrow's own errors are of these kinds
        first, _, _ = str(error).partition("\n")
        raise BadData(f"{path} cannot be read: {first[:160]}", hint=_HINT) from error
    files = _texts(path, named, columns[named]) if named else ()
    return _rows(path, arrays, files, (), "train")


def _texts(path: Path, key: str, value: Any) -> tuple[str, ...]:
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise BadData(f"{path}: {key} is {array.dtype} {list(array.shape)}, not [n] text")
    return tuple(each.decode() if isinstance(each, bytes) else str(each) for each in array)


def _from_safetensors(path: Path) -> Rows:
    metadata, shapes = safetensors_header(path)
    with safe_open(path, framework="np") as handle:
        arrays = {name: handle.get_tensor(name) for name in shapes}
    if "kd_logits" in metadata:
        return _stored_by_kd(path, metadata["kd_logits"], arrays)
    about: dict[str, Any] = {}
    if "logits" in metadata:
        try:
            about = dict(parse_json(metadata["logits"]))
        except (ValueError, TypeError) as error:
            raise BadData(f"{path} has damaged metadata: {error}", hint=_HINT) from error
    split = about.get("split", "train")
    files, names = (
        tuple(map(str, found)) if isinstance(found := about.get(key), list) else ()
        for key in ("files", "class_names")
    )
    files = files or _listed_in(path, metadata, "files")
    names = names or _listed_in(path, metadata, "classes")
    if split == "val" and not files:
        raise BadData(
            f"{path} has answers to the held-out part of a run, in that run's order",
            hint="kd evaluate --split train of a run that holds nothing out saves those of all",
        )
    # what kd evaluate and kd analyze-gap save
    saved = [key for key in arrays if key.startswith("logits.") or key == "teacher"]
    if saved and not set(_KINDS) & arrays.keys():
        if len(saved) > 1:
            raise BadData(
                f"{path} has answers of several networks: {formatting.listed(saved, _SHOWN)}",
                hint="save those of one",
            )
        arrays = {"logits": arrays[saved[0]]}
    return _rows(path, arrays, files, names, "test" if split == "test" else "train")


def _listed_in(path: Path, metadata: Mapping[str, str], key: str) -> tuple[str, ...]:
    """The names that somebody wrote beside the tensors, as a JSON list; none where there are
    none.
    """
    if key not in metadata:
        return ()
    try:
        return strict(tuple[str, ...], parse_json(metadata[key]))
    except ValueError as error:
        raise BadData(
            f"{path}: {key} in its metadata is no JSON list of texts",
            hint=f'metadata={{"{key}": json.dumps([...])}} of save_file',
        ) from error


def _stored_by_kd(path: Path, text: str, arrays: Mapping[str, Any]) -> Rows:
    """What `kd cache` has stored, of one view of each picture."""
    try:
        key = dict(parse_json(text))
        top, marks = key.get("top"), arrays["marks"]
        samples, views = marks.shape
    except (ValueError, TypeError, KeyError) as error:
        raise BadData(f"{path} is no table of stored answers, or damaged", hint=_HINT) from error
    if top is not None:
        raise BadData(
            f"{path} has the {top} largest logits of each answer alone (teacher.cache_top)",
            hint="kd cache without teacher.cache_top",
        )
    if views != 1:
        raise BadData(
            f"{path} has answers to {views} views of each picture",
            hint="kd cache with data.augment.crop=0 and data.augment.flip=false stores one",
        )
    logits = torch.from_numpy(_numbers(path, "logits", {"logits": arrays["logits"][:, 0]}))
    if marks.dtype != np.int32 or len(logits) != samples:
        raise BadData(f"{path} is no table of stored answers, or damaged", hint=_HINT)
    shape = Shape(samples, 1, logits.shape[1])
    whole = row_marks(shape.pack(logits)) == torch.from_numpy(marks[:, 0].copy())
    if not bool(whole.all()):
        raise BadData(
            f"{path} lacks {int((~whole).sum())} of {samples} answers", hint="kd cache fills it"
        )
    return Rows(
        {"train": _checked(path, "logits", logits, "logits")},
        positions=str(key.get("images")),
        fingerprint=str(key.get("data")),
    )


def _rows(
    path: Path,
    arrays: Mapping[str, Any],
    files: tuple[str, ...],
    names: tuple[str, ...],
    part: SplitName,
) -> Rows:
    found: dict[SplitName, Tensor] = {}
    for prefix, split in (("", part), ("test_", "test")):
        given = [kind for kind in _KINDS if f"{prefix}{kind}" in arrays]
        if len(given) > 1:
            raise BadData(f"{path} has both {prefix}logits and {prefix}probabilities", hint=_HINT)
        if given:
            key = f"{prefix}{given[0]}"
            found[split] = _checked(
                path, key, torch.from_numpy(_numbers(path, key, arrays)), given[0]
            )
    if not found:
        has = formatting.listed(sorted(arrays), _SHOWN) or "nothing"
        raise BadData(f"{path} has neither logits nor probabilities, it has {has}", hint=_HINT)
    if len({each.shape[-1] for each in found.values()}) > 1:
        raise BadData(f"{path} has answers of different numbers of classes", hint=_HINT)
    if names and len(names) != next(iter(found.values())).shape[-1]:
        raise BadData(f"{path} has {len(names)} names of classes for its columns", hint=_HINT)
    if not files:
        return Rows(found, class_names=names)
    (named, *more) = found.values()
    if more or len(named) != len(files):
        raise BadData(
            f"{path} has {len(files)} files and {sum(map(len, found.values()))} answers",
            hint="with files, one array of answers to all pictures, one a file",
        )
    by_file = {name: number for number, name in enumerate(files)}
    if len(by_file) < len(files):
        twice = next(name for number, name in enumerate(files) if by_file[name] != number)
        raise BadData(f"{path} has several answers to {twice}", hint="one a file")
    return Rows({}, named, by_file, names)


def _numbers(path: Path, key: str, arrays: Mapping[str, Any]) -> Any:
    array = np.asarray(arrays[key])
    if array.ndim not in {2, 3} or array.dtype.kind != "f" or array.shape[-1] < 2:
        raise BadData(
            f"{path}: {key} is {array.dtype} {list(array.shape)}, not floating point [n, K], or "
            "[n, V, K] of V views",
            hint=_HINT,
        )
    return array.astype(np.float32)


def _checked(path: Path, key: str, answers: Tensor, kind: str) -> Tensor:
    """Answers [n,M] as logits: the logarithms of probabilities, those of 0 bounded."""
    bad = (~answers.isfinite()).any(-1)
    if kind == "probabilities":
        bad |= (answers < 0).any(-1) | ((answers.sum(-1) - 1).abs() > _SUM)
    bad = bad.flatten(1).any(1) if bad.ndim == 2 else bad
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        what = "NaN or infinite" if kind == "logits" else "no probabilities that add up to 1"
        raise BadData(
            f"{path}: {key} has {int(bad.sum())} rows that are {what}, first in number {first}",
            hint="mend them" if kind == "logits" else "mend them; or are they logits?",
        )
    return answers if kind == "logits" else answers.clamp(min=_LEAST).log()
