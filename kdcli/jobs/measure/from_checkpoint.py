"""Answers of checkpoints to the data that they are measured on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kdcli import tasks
from kdcli.core.class_map import Groups
from kdcli.core.merged_classes import MergedClasses
from kdcli.core.network import Network
from kdcli.core.types import Batch, DataInfo, Feed, Sees, SplitName
from kdcli.engine.checkpoint import write_tensors
from kdcli.engine.runtime import Runtime
from kdcli.errors import Incompatible
from kdcli.jobs.build import sights
from kdcli.jobs.build.datasets import open_feed
from kdcli.jobs.build.networks import checked_header, load_network
from kdcli.jobs.build.teachers import as_teacher, check_fits
from kdcli.jobs.measure.answers import Answers, found
from kdcli.jobs.measure.other_pictures import other_pictures
from kdcli.recipe import measured_data
from kdcli.recipe.reading.layers import Layer
from kdcli.results.preprocessing import Preprocessing, Sight
from kdcli.results.weights_header import CheckpointHeader, read_header
from kdcli.trust import named_by


def label_of(path: Path) -> str:
    """How tables call a checkpoint: its run's name, or the file's own."""
    return path.parent.name if path.name == "model.safetensors" and path.parent.name else path.stem


class Lesson(NamedTuple):
    """How a teacher of other classes taught a student: its classes of each of the student's."""

    student: str | Path
    header: CheckpointHeader
    groups: Groups


def _through(
    lesson: Lesson, network: Network, header: CheckpointHeader, info: DataInfo
) -> MergedClasses:
    """A teacher through the class map of its student.

    Raises:
        Incompatible: the map is of other classes, of the teacher or of the data.
    """
    most = max(map(max, lesson.groups))
    if most >= header.num_classes or lesson.header.num_classes != info.num_classes:
        raise Incompatible(
            f"{lesson.student} was taught through a class map that does not fit: it maps "
            f"{most + 1} or more classes to {len(lesson.groups)}, the teacher has "
            f"{header.num_classes} and {info.name} {info.num_classes}",
            hint="-d DATA, the student's",
        )
    return MergedClasses(network, lesson.groups)


class CheckpointEvaluator:
    """Measures checkpoints on the same splits; a dataset is opened once.

    Args:
        asked: what was said about the data (kdcli.recipe.measured_data); nothing, for what each
            checkpoint was trained on.
        split: "test", "val" or "train"; val is the part that the checkpoint's own recipe held out.
        on: a folder of other pictures of the checkpoints' classes that are measured instead.
    """

    def __init__(
        self, asked: Layer, *, split: SplitName, runtime: Runtime, on: Path | None = None
    ) -> None:
        self._asked = asked
        self._on = on
        self.split: SplitName = split
        self.runtime = runtime
        self._feeds: dict[str, Feed] = {}
        self._lessons: dict[str, Lesson] = {}
        self._pupils: dict[str, CheckpointHeader] = {}

    def under_maps_of(self, students: Iterable[str | Path]) -> None:
        """Measures a checkpoint of other classes, which taught one of these students through a
        class map, through that map and on the student's data.

        Raises:
            Incompatible: two students were taught by one teacher through different maps. Others: as
                `read_header`.
        """
        for student in students:
            _, header = read_header(student)
            for teacher, groups in header.teacher_classes.items():
                known = self._lessons.setdefault(teacher, Lesson(student, header, groups))
                if known.groups != groups:
                    raise Incompatible(
                        f"{known.student} and {student} were taught by one teacher through "
                        "different teacher.classes",
                        hint="measure them one at a time",
                    )

    def on_data_of(self, student: str | Path) -> None:
        """Measures the teachers of a student on its data, not on those that they were trained on.

        Raises:
            NotFound, BadCheckpoint: as `read_header`.
        """
        _, header = read_header(student)
        self._pupils |= dict.fromkeys(header.teachers, header)

    def feed(self, path: Path, header: CheckpointHeader) -> tuple[Feed, str]:
        """The batches that a checkpoint is measured on, and what tables call them.

        Raises:
            Incompatible: the split is empty. Others: as kdcli.recipe.measured_data.section_of.
        """
        section = measured_data.section_of(path, header, self._asked, train=self.split != "test")
        # only the held-out part depends on the seed
        key = section.model_dump_json() + (str(header.seed) if self.split != "test" else "")
        if key not in self._feeds:
            self._feeds[key] = open_feed(
                section,
                device=self.runtime.device,
                seed=header.seed,
                class_names=lambda: header.class_names,
            )
        feed = self._feeds[key]
        if feed.size(self.split) == 0:
            raise Incompatible(
                f"{section.name} has no {self.split} split here",
                hint="--split test, or train with data.val_fraction above 0",
            )
        return feed, measured_data.label_of(section, self._asked)

    def _asked_sight(self) -> Sight:
        """What was said of the size of the pictures to measure on: it holds for every network."""
        size, resize = (self._asked.get("data", key) for key in ("size", "resize"))
        return Sight(
            size=(size, size) if isinstance(size, int) else None,
            resize=resize if isinstance(resize, int) else None,
        )

    def _measured(
        self, path: Path, header: CheckpointHeader, lesson: Lesson | None
    ) -> tuple[DataInfo, Preprocessing, str, Iterable[Batch], tuple[str, ...], int]:
        """What a checkpoint is measured on: what is known of it, the network's pixels, what tables
        call it, its batches, its files, and how many rows it has.
        """
        if self._on is not None:
            pupil = header if lesson is None else lesson.header
            known = replace(header, num_classes=pupil.num_classes, class_names=pupil.class_names)
            pictures = other_pictures(self._on, path, known, self.runtime.device)
            source = f"pictures in {self._on}"
            rows = len(pictures.files)
            return pictures.info, pictures.how, source, pictures.batches(), pictures.files, rows
        with named_by(f"the header of {path}"):
            pupil = self._pupils.get(header.tensors_sha256, header)
            feed, source = self.feed(path, pupil if lesson is None else lesson.header)
        check_fits(path, header, feed.info, "network", mapped=lesson is not None)
        told = self._asked_sight().over(sights.of_header(path, header))
        sees = sights.pixels_for(told, feed.info, str(path))
        own = sights.own_pixels(Sees(sees), feed.info)
        feed = feed.showing([] if own is None else [own])
        split = self.split
        return feed.info, sees, source, feed.split(split), feed.files(split), feed.size(split)

    @property
    def device(self) -> str:
        """Where networks answer, as people call it."""
        return str(self.runtime.device)

    def answers(
        self,
        checkpoint: str | Path,
        label: str | None = None,
        taps: Callable[[Network], tuple[str, ...]] | None = None,
    ) -> Answers:
        """Runs a checkpoint over its split, once.

        Args:
            checkpoint: a file or a run directory.
            label: its name in tables and messages; its run's, or the file's own, unless given.
            taps: the taps of a network to keep besides its logits; none, and no image, unless
                given.
        """
        path, header = checked_header(checkpoint)
        lesson = self._lessons.get(header.tensors_sha256)
        info, sees, source, batches, files, rows = self._measured(path, header, lesson)
        network, header, path = load_network(checkpoint)
        if lesson is not None:
            network = _through(lesson, network, header, info)
        teacher = as_teacher(network, sees, info, self.runtime)
        wanted = () if taps is None else taps(network)
        kept: dict[str, list[Tensor]] = {tap: [] for tap in wanted}
        first: list[Tensor] = []

        def forward(batch: Batch) -> Tensor:
            placed = self.runtime.place(batch)
            if taps is not None and not first:
                first.append(_one(info, teacher.seen(placed)).clone())
            output = teacher(placed, wanted)
            for tap, values in kept.items():
                values.append(_as_vectors(output.taps[tap]))
            return output.logits

        logits, targets, measures, read = found(
            forward, batches, info, rows, split=self.split, selected=_selected(header)
        )
        return Answers(
            label=label or label_of(path),
            checkpoint=str(path),
            architecture=header.architecture,
            parameters=header.parameters,
            method=header.method,
            method_options=header.method_options,
            epochs=header.epochs,
            seed=header.seed,
            network=network,
            info=info,
            source=source,
            # of a checkpoint that does not say what it was trained on, nothing is said either
            trained_on_them=not header.data or header.data_fingerprint == info.fingerprint,
            files=files,
            logits=logits,
            targets=targets,
            measures=measures,
            features={tap: torch.cat(values)[: len(targets)] for tap, values in kept.items()},
            image=first[0] if first else None,
            sha256=header.tensors_sha256,
            teachers=header.teachers,
            folded_temperature=header.folded_temperature,
            read=read,
        )


def _one(info: DataInfo, x: Tensor) -> Tensor:
    """One of what a network sees, [1,C,H,W]; of a text that is read on and on one token."""
    return x[:1] if tasks.named(info.task).fixed_shape else x[:1, :, :, :1]


def _selected(header: CheckpointHeader) -> Literal["last", "best"]:
    """Which epoch the weights are of, as the run that made them said."""
    return "best" if header.metrics.get("selected") == "best" else "last"


def _as_vectors(x: Tensor) -> Tensor:
    """A tap's values [B,...] as [B,D] float32 on the CPU, maps [B,C,H,W] averaged over their
    positions.
    """
    return (x.float().mean(dim=(2, 3)) if x.ndim == 4 else x.float().flatten(1)).cpu()


def labels_of(checkpoints: Iterable[str | Path]) -> list[str]:
    """Labels that tell checkpoints apart, by number where names are equal."""
    return distinct(label_of(read_header(checkpoint)[0]) for checkpoint in checkpoints)


def distinct(names: Iterable[str]) -> list[str]:
    """Names, with a number behind those that have been there before."""
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return labels


def save_logits(path: Path, tensors: dict[str, Tensor], first: Answers) -> None:
    """Writes logits and targets as one safetensors file, atomically.

    Its metadata has one entry "logits", JSON: the data and the split, the name of each column
    (class_names), and the file of each row (files; empty where samples are from no files).

    Args:
        first: answers to the samples that the rows are of.
    """
    about = {
        "data": first.source or first.info.name,
        "split": first.measures.split,
        "class_names": first.info.class_names,
        "files": first.files,
    }
    write_tensors(
        path,
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
        {"logits": json.dumps(about, ensure_ascii=False)},
    )
