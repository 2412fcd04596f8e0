"""Trained networks become teachers here: from a checkpoint, or from a library with its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdcli import catalog, formatting, tasks
from kdcli.core.class_map import Groups
from kdcli.core.known_answers import KnownAnswers
from kdcli.core.network import Network, parameter_count
from kdcli.core.teacher import Teacher
from kdcli.core.types import DataInfo, Sees, Shown
from kdcli.engine.checkpoint import digest
from kdcli.engine.runtime import Runtime
from kdcli.errors import Incompatible, UsageError, Where
from kdcli.jobs.build import class_maps, kept, sights
from kdcli.jobs.build.networks import fresh_network, load_network
from kdcli.models._headed import two_heads
from kdcli.models._tapped import tapped
from kdcli.recipe import teacher_facts
from kdcli.results.preprocessing import Preprocessing, Sight
from kdcli.results.run import TeacherSummary
from kdcli.results.weights_header import CheckpointHeader, kept_along


def between(larger: LoadedTeacher, smaller: Network, info: DataInfo) -> dict[str, int]:
    """The zoo's networks of a teacher's family that lie between it and a smaller network, with
    their parameters, largest first.

    Counted with the data's classes and images, on networks that have shapes and no values.
    """
    # a composite, somebody's own file, an adapter's network
    if larger.architecture not in catalog.entries("model"):
        return {}
    family = catalog.entry("model", larger.architecture).path
    least, most = (parameter_count(network) for network in (smaller, larger.teacher.network))
    found = {}
    for name in (
        name
        for name, entry in catalog.entries("model").items()
        if entry.path == family and not name.endswith("/*")
    ):
        # one that cannot take these images is no candidate
        with (
            contextlib.suppress(UsageError),
            torch.device("meta"),
        ):
            network = fresh_network(
                name,
                num_classes=info.num_classes,
                input_shape=info.input_shape,
                vocabulary=info.vocabulary_size,
            )
            found[name] = parameter_count(network)
    fitting = {name: count for name, count in found.items() if least < count < most}
    return dict(sorted(fitting.items(), key=lambda item: -item[1]))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a recipe asks of a teacher besides its weights.

    sight: the pixels that it is to see in the place of its own. view: what it sees of a training
    picture. classes: by class of the data, its own (kdcli.core.class_map); None where it has the
    data's.
    """

    sight: Sight = field(default_factory=Sight)
    view: Shown = "same"
    classes: class_maps.Given | None = None


_NOTHING = Asked()
# what is kept from run to run: answers of so many teachers, and of each so many bytes
KNOWN_TEACHERS, KNOWN_BYTES = 4, 2**26


@dataclass(frozen=True, slots=True)
class LoadedTeacher:
    """A teacher ready to answer, with what is known about it.

    teacher: as its checkpoint has it, for measurements. history: checkpoints along its training,
    itself the last. faster: a copy for training batches. remark: what is to be said of its classes
    beside the data's. groups: its own classes of each of the data's, where a class map says so;
    understood: that map in words, a line each. weights: their checksum, where no checkpoint says it
    and no rank holds them all.
    """

    teacher: Teacher
    summary: TeacherSummary
    architecture: str
    arguments: Mapping[str, Any]
    history: tuple[str, ...] = ()
    faster: Teacher | None = None
    remark: str | None = None
    groups: Groups | None = None
    understood: tuple[str, ...] = ()
    weights: str = ""

    @property
    def asked(self) -> Teacher:
        """What training asks."""
        return self.faster or self.teacher


def load_teacher(
    path: str | Path,
    info: DataInfo,
    runtime: Runtime,
    taps: Mapping[str, str] | None = None,
    asked: Asked = _NOTHING,
) -> LoadedTeacher:
    """A checkpoint as a teacher for a dataset.

    Args:
        taps: tap -> module path, in the place of the network's own.
        asked: its sight in the place of what its file says, the class map from its classes.

    Raises:
        Incompatible: its classes or its input do not fit the data; a peer would train against a
            random head in silence. UsageError: the class map does not.
    """
    network, header, found = load_network(path)
    check_fits(found, header, info, mapped=asked.classes is not None)
    if taps:
        network = tapped(network, taps, header.input_shape)
    through = class_maps.mapped(network, asked.classes, header.class_names, info)
    summary = TeacherSummary(
        str(path),
        header.tensors_sha256,
        header.architecture,
        header.parameters,
        # of its own classes, they would say nothing of the data's
        header.measures if asked.classes is None else None,
    )
    sees = sights.pixels_for(asked.sight.over(sights.of_header(found, header)), info, "teacher")
    teacher = as_teacher(through.network, sees, info, runtime, header.epoch, asked.view)
    if asked.classes is None and tasks.named(info.task).pictures and not runtime.shards:
        teacher.known = known_answers(header, taps, runtime)
    history = tuple(str(kept) for kept in kept_along(found, header.epoch))
    return LoadedTeacher(
        teacher,
        summary,
        header.architecture,
        header.arguments,
        history,
        runtime.answering(teacher),
        teacher_facts.remark(
            teacher_facts.of_header(found, header, mapped=asked.classes is not None), _images(info)
        ),
        through.groups,
        through.words,
    )


def known_answers(
    header: CheckpointHeader, taps: Mapping[str, str] | None, runtime: Runtime
) -> KnownAnswers | None:
    """What a network with these weights has answered in earlier runs, where that is kept."""
    if not kept.keeping():
        return None
    key = header.tensors_sha256, header.architecture, header.arguments, taps, str(runtime.device)
    return kept.get("answers", repr(key), lambda: KnownAnswers(KNOWN_BYTES), most=KNOWN_TEACHERS)


def check_fits(
    path: Path,
    header: CheckpointHeader,
    info: DataInfo,
    called: str = "teacher",
    *,
    mapped: bool = False,
) -> None:
    """Refuses a checkpoint whose classes or input shape are not the data's; under a class map,
    whose input shape is not.

    Raises:
        Incompatible: what differs, and what to give instead.
    """
    teacher_facts.check_fit(
        teacher_facts.of_header(path, header, called, mapped=mapped),
        _images(info),
    )
    if info.vocabulary is not None and header.vocabulary is not None:
        problem = info.vocabulary.differs(header.vocabulary)
        if problem:
            raise Incompatible(
                f"the vocabulary of the {called} is not that of {info.name}: {problem}",
                hint="the same training text with the same data.tokens, data.vocabulary, "
                "data.lower and data.length",
                where=Where(file=str(path)),
            )


def _images(info: DataInfo) -> teacher_facts.Images:
    return teacher_facts.Images(info.name, info.num_classes, info.input_shape, info.class_names)


def other_head(header: CheckpointHeader, info: DataInfo) -> str:
    """What a checkpoint's head predicts, where these are not the classes of the data in their
    order; "" where they are.
    """
    if header.num_classes != info.num_classes:
        return f"{header.num_classes} classes"
    if teacher_facts.relation(header.class_names, info.class_names) in {"order", "other"}:
        return f"other classes ({formatting.listed(header.class_names, 3)})"
    return ""


def as_teacher(
    network: Network,
    sees: Preprocessing,
    info: DataInfo,
    runtime: Runtime,
    epoch: int | None = None,
    view: Shown = "same",
) -> Teacher:
    """A network as a teacher for a dataset, on the device, seeing pixels as those that it was
    trained on.

    Args:
        sees: these. info: the data whose batches it will answer; where its pixels are more than the
            data's own, normalised otherwise, these batches must hold them (`Feed.showing`). view:
            of training pictures.
    """
    runtime.move_teacher(network)
    if (own := sights.own_pixels(Sees(sees, view), info)) is not None:
        return Teacher(network, epoch=epoch, sees=own)
    if (sees.mean, sees.std) == (info.mean, info.std):
        return Teacher(network, epoch=epoch)
    mean, std, our_mean, our_std = (
        torch.tensor(part, device=runtime.device)
        for part in (sees.mean, sees.std, info.mean, info.std)
    )
    return Teacher(network, renormalise=(our_std / std, (our_mean - mean) / std), epoch=epoch)


def _categories(module: Any, name: str, weights: str | None, info: DataInfo) -> tuple[str, ...]:
    """The names of the classes of a library's network, whose tokens are those of the data where
    these are texts.
    """
    if tasks.named(info.task).pictures:
        found: tuple[str, ...] = module.categories(name, weights)
        return found
    return check_tokens(name, info)


def check_tokens(name: str, info: DataInfo) -> tuple[str, ...]:
    """The names of the classes of a library's network, if it was trained on the tokens that the
    texts of the data have.

    Raises:
        Incompatible: it was not, or it reads no text.
    """
    module = catalog.load(catalog.entry("model", name))
    if not hasattr(module, "text_categories"):
        raise Incompatible(f"{name} is a network of pictures", hint="hf/FOLDER, or one of kd's own")
    found: tuple[str, ...] = module.text_categories(name, info)
    return found


def pretrained_teacher(
    name: str,
    weights: str | None,
    info: DataInfo,
    runtime: Runtime,
    taps: Mapping[str, str] | None = None,
    asked: Asked = _NOTHING,
) -> LoadedTeacher:
    """A network that comes with weights, such as torchvision/resnet50, as a teacher. Its head must
    fit the data's classes, or a class map say which of its own they are.

    Args:
        asked: its sight in the place of what its library says.
    """
    module = catalog.load(catalog.entry("model", name))
    own = getattr(module, "OWN_WEIGHTS", None)  # of a folder that is there with its weights
    if weights is None and own is None:
        raise UsageError(
            f"teacher {name} needs weights: a fresh network teaches nothing",
            hint='teacher.weights = "DEFAULT"',
        )
    weights = weights or own
    names = _categories(module, name, weights, info)
    sees = sights.pixels_for(asked.sight.over(module.sight(name, weights)), info, name)
    if asked.classes is None and len(names) != info.num_classes:
        told = name if weights == own else f"{name} with weights {weights}"
        raise Incompatible(
            f"{told} predicts {len(names)} classes, {info.name} has {info.num_classes}",
            hint=(
                f"a new head, trained on your classes: kd train-teacher --model {name} "
                f"-s model.weights={weights}; then -t with that run; or {teacher_facts.MAP_HINT}"
            ),
        )
    network = fresh_network(
        name,
        num_classes=len(names),
        input_shape=sees.input_shape,
        options={"weights": weights, "taps": taps},
    )
    through = class_maps.mapped(network, asked.classes, names, info)
    parameters = parameter_count(network)
    called = name if weights == own else f"{name} ({weights})"
    summary = TeacherSummary(called, "", name, parameters, None)
    teacher = as_teacher(through.network, sees, info, runtime, view=asked.view)
    relation = "same" if through.groups else teacher_facts.relation(names, info.class_names)
    if relation == "order":
        raise Incompatible(
            f"{name} has the classes of {info.name} in another order",
            hint=f"number the classes of the data as the weights do; or {teacher_facts.MAP_HINT}",
        )
    remark = (
        None
        if relation == "same"
        else f"{name} calls its classes {', '.join(names[:3])}, ..., and {info.name} "
        f"{', '.join(info.class_names[:3])}, ...: they are taken to be in the same order"
    )
    weights_sum = digest_if_sharded(through.network, runtime)
    faster = runtime.answering(teacher)
    return LoadedTeacher(
        teacher,
        summary,
        name,
        {},
        faster=faster,
        remark=remark,
        groups=through.groups,
        understood=(*through.words, *two_heads(network)),
        weights=weights_sum,
    )


def digest_if_sharded(network: Network, runtime: Runtime) -> str:
    """The checksum of weights that ranks are about to divide; "" where each will hold them all."""
    return digest(network.state_dict()) if runtime.shards else ""
