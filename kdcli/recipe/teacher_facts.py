"""Facts about a teacher that are known before torch is imported, and its fit to the data: from its
file's header, or its recipe.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdcli import catalog, tasks, trust
from kdcli.errors import Incompatible, Where
from kdcli.recipe import schema
from kdcli.results.weights_header import CheckpointHeader, read_header

Shape = tuple[int, ...]
_COLOURS = 3
BY_RECIPE = "teacher's recipe"


@dataclass(frozen=True, slots=True)
class Known:
    """A teacher from outside; what is not known is None.

    told_by: "teacher's file" or "teacher's recipe". data: the [data] section it was trained on.
    data_of_a_stranger: whether it is not the user who named that. files: the Python files that its
    network is made of, where a header names them. called: what messages call it. mapped: whether
    a class map says which of its classes are which of the data's.
    """

    path: str
    told_by: str
    architecture: str
    data: Mapping[str, Any]
    num_classes: int | None = None
    input_shape: Shape | None = None
    class_names: tuple[str, ...] | None = None
    data_of_a_stranger: bool = True
    files: tuple[str, ...] = ()
    called: str = "teacher"
    mapped: bool = False


@dataclass(frozen=True, slots=True)
class Images:
    """Facts about a dataset; None where only loading it would tell."""

    name: str
    num_classes: int | None = None
    input_shape: Shape | None = None
    class_names: tuple[str, ...] | None = None


def from_checkpoint(path: str) -> Known:
    """The facts of a checkpoint, from its header.

    Raises:
        NotFound: nothing there. BadCheckpoint: damaged, or not one of ours.
    """
    found, header = read_header(path)
    return of_header(found, header)


def of_header(
    path: Path, header: CheckpointHeader, called: str = "teacher", *, mapped: bool = False
) -> Known:
    """The facts of a header."""
    return Known(
        str(path),
        "teacher's file",
        header.architecture,
        header.data,
        header.num_classes,
        tuple(header.input_shape),
        header.class_names,
        called=called,
        mapped=mapped,
        files=trust.files_in([header.architecture, header.arguments]),
    )


def from_recipe(path: str, recipe: schema.TrainTeacherRecipe, *, data_of_a_stranger: bool) -> Known:
    """The facts of a teacher that is yet to be trained."""
    images = images_of(recipe.data)
    data = recipe.data.model_dump(exclude_none=True)
    return Known(
        path,
        BY_RECIPE,
        recipe.model.name,
        data,
        images.num_classes,
        images.input_shape,
        images.class_names,
        data_of_a_stranger,
    )


def check_pretrained(name: str) -> None:
    """Refuses a name that brings no weights. What its weights predict is known only once they are
    loaded; a function in a file is taken to load its own.

    Raises:
        NotFound: nothing of that name. Incompatible: a network of kd's own, which starts from fresh
            weights.
    """
    if catalog.entry("model", name).factory is None and "/" not in name:
        raise Incompatible(
            f"{name} comes without weights",
            hint="give checkpoint = RUN or recipe = FILE, or a name such as torchvision/resnet50",
        )


def images_of(data: schema.DataSection) -> Images:
    """The facts about a [data] section: the catalogue's, and those that its own options fix (the
    number of synthetic classes).
    """
    facts = catalog.entry("dataset", data.name).facts
    classes, shape, names = (facts.get(key) for key in ("classes", "shape", "class_names"))
    return Images(
        data.name,
        classes or getattr(data, "classes", None),
        tuple(shape) if shape else None,
        tuple(names) if names else None,
    )


def check_fit(teacher: Known, images: Images) -> None:
    """Refuses a teacher that was not trained for these images: it would answer, and every answer
    would be wrong.

    Raises:
        Incompatible: another number of classes, other classes or another order of them, another
            shape of input.
    """
    problem = _misfit(teacher, images)
    if problem:
        hint = _remedy(teacher, images)
        if tasks.of_data(images.name).same_classes:
            hint = "the same text with the same data.vocabulary, data.lower and data.tokens"
        elif _other_classes(teacher, images) and teacher.called == "teacher":
            hint = f"{hint}; or {MAP_HINT}"
        raise Incompatible(problem, hint=hint, where=Where(file=teacher.path))


def check_test_part(teacher: Known, data: schema.DataSection) -> None:
    """Refuses a teacher that was trained on what is tested on here: of one folder or file, another
    or a smaller share was tested on then. A share is part of every larger one of its seed.

    Raises:
        Incompatible: as said.
    """
    mine = {key: getattr(data, key, None) for key in ("name", "path", "test_seed", "test_fraction")}
    theirs = {key: teacher.data.get(key) for key in mine}
    if theirs["test_seed"] is None and teacher.told_by == BY_RECIPE:
        return  # it is trained with the student's
    if any(values["name"] is None or values["path"] is None for values in (mine, theirs)):
        return
    if mine["name"] != theirs["name"] or _place(mine["path"]) != _place(theirs["path"]):
        return
    for key, otherwise in (("test_seed", operator.ne), ("test_fraction", operator.gt)):
        now, then = (values[key] or 0 for values in (mine, theirs))
        known = key == "test_seed" or (then and isinstance(then, int | float))
        if known and otherwise(now, then):
            raise Incompatible(
                f"the {teacher.called} was trained on what is tested on here: data.{key} = {then} "
                f"divided {mine['path']} then, and {now} does now",
                hint=f"data.{key} = {then}, or train a teacher with data.{key} = {now}",
                where=Where(file=teacher.path),
            )


def _place(path: object) -> str:
    """A folder or file, however it was written down."""
    return os.path.abspath(os.path.expanduser(str(path)))  # noqa: PTH100, PTH111  it may be no path


# what to do about a teacher of other classes
MAP_HINT = "teacher.classes says which of its classes are which of the data's"


def _other_classes(teacher: Known, images: Images) -> bool:
    """Tells whether a teacher's classes are not the data's, as far as that is known."""
    if teacher.mapped:
        return False
    if teacher.num_classes and images.num_classes and teacher.num_classes != images.num_classes:
        return True
    return relation(teacher.class_names, images.class_names) in {"order", "other"}


def _remedy(teacher: Known, images: Images) -> str:
    """What to do about a teacher that does not fit: to name a dataset helps only where the name
    says which images are meant.
    """
    trained_on = teacher.data.get("name")
    if trained_on is None:
        return f"-d NAME, the data that it was trained on, or a {teacher.called} of {images.name}"
    if trained_on != images.name:
        return (
            f"-d {trained_on}, which it was trained on, or a {teacher.called} trained on "
            f"{images.name}"
        )
    task = tasks.of_data(images.name)
    lengths = (teacher.input_shape or (0,), images.input_shape or (0,))
    if not task.pictures and lengths[0][:2] == lengths[1][:2] == (1, 1):
        return f"data.length = {lengths[0][2]}, or {task.worded('a teacher of these images')}"
    path = teacher.data.get("path")
    given = f"{images.name} -s data.path=PATH" if path else images.name
    anew = f"train a teacher on these images first: kd train-teacher -d {given}"
    if path:
        return f"distil on {path} as it was when the teacher was trained, or {anew}"
    return f"distil on the data that it was trained on, or {anew}"


def relation(
    names: tuple[str, ...] | None, others: tuple[str, ...] | None
) -> Literal["same", "order", "other", "unknown"]:
    """How the classes of two networks or data with one number of classes compare: the same names,
    the same in another order, other names; unknown where one side has none, or numbers for names.
    """
    if names == others and names is not None:
        return "same"
    if not names or not others:
        return "unknown"
    if sorted(names) == sorted(others):  # folders 0, 1, 10, 2 beside numbers, too
        return "order"
    return "unknown" if _numbered(names) or _numbered(others) else "other"


def _numbered(names: tuple[str, ...]) -> bool:
    return names == tuple(str(number) for number in range(len(names)))


def remark(teacher: Known, images: Images) -> str | None:
    """What is to be said of a teacher that fits as far as one can know: that only one side has
    names for its classes.
    """
    names, own = teacher.class_names, images.class_names
    if teacher.mapped or not names or not own or relation(names, own) != "unknown":
        return None
    named, whose = (names, "the teacher") if _numbered(own) else (own, images.name)
    return (
        f"of {images.name} and the teacher only {whose} has names for its classes "
        f"({', '.join(named[:3])}, ...): they are taken to be in the same order"
    )


def _misfit(teacher: Known, images: Images) -> str | None:
    other = _other_classes(teacher, images)
    same = tasks.of_data(images.name).same_classes and teacher.input_shape == images.input_shape
    if other and same:
        return _vocabularies_differ(teacher, images)
    if other and teacher.num_classes != images.num_classes:
        return (
            f"{teacher.called} predicts {teacher.num_classes} classes, {images.name} has "
            f"{images.num_classes}"
        )
    if (
        teacher.input_shape
        and images.input_shape
        and (problem := channels_differ(teacher.input_shape, images.input_shape))
    ):
        if not tasks.of_data(images.name).pictures and teacher.input_shape[:2] == (1, 1):
            taken, given = teacher.input_shape[2], images.input_shape[2]
            return f"{teacher.called} takes texts of {taken} tokens, {images.name} has {given}"
        return f"{teacher.called} takes {problem.format(images.name)}"
    if other:
        assert teacher.class_names is not None
        return _names_differ(teacher.called, teacher.class_names, images)
    return None


def _vocabularies_differ(teacher: Known, images: Images) -> str:
    """What tells two vocabularies apart: their sizes, or the first word that differs."""
    ours, theirs = images.class_names or (), teacher.class_names or ()
    if teacher.num_classes != images.num_classes:
        why = f"it has {teacher.num_classes} words, and {images.name} {images.num_classes} here"
    else:
        place, own, other = next(
            (place, own, other)
            for place, (own, other) in enumerate(zip(ours, theirs, strict=True))
            if own != other
        )
        why = f"word {place} is {other!r} to it and {own!r} here"
    return f"the vocabulary of the {teacher.called} is not that of {images.name}: {why}"


def channels_differ(taken: Shape, given: Shape) -> str:
    """What is wrong with pictures of one shape for a network that takes another, of the form "this,
    {} has that"; "" if nothing is: pictures are resized, and grey is repeated into three channels.
    """
    one = taken[0] == given[0] or (given[0] == 1 and taken[0] == _COLOURS)
    if taken == given or (one and min(taken[1], given[1]) > 1):
        return ""
    return f"images of {_size(taken)}, {{}} has {_size(given)}"


def _names_differ(called: str, names: tuple[str, ...], images: Images) -> str:
    assert images.class_names is not None
    if sorted(names) == sorted(images.class_names):
        first = next(
            index
            for index, (ours, theirs) in enumerate(zip(images.class_names, names, strict=True))
            if ours != theirs
        )
        return (
            f"{called} has the classes of {images.name} in another order: class {first} is "
            f"{names[first]!r} to it and {images.class_names[first]!r} there"
        )
    return (
        f"{called} predicts other classes ({', '.join(names[:3])}, ...) than {images.name} has "
        f"({', '.join(images.class_names[:3])}, ...)"
    )


def _size(shape: Shape) -> str:
    return "×".join(str(part) for part in shape)
