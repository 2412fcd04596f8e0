"""The only place where the names in a recipe become objects: data, networks, teachers, method,
runtime.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from kdcli import catalog, tasks, trust
from kdcli.core.class_weights import ClassWeights
from kdcli.core.method import Method, Setup
from kdcli.core.network import Blueprint, Network
from kdcli.core.teacher import Ensemble, Teacher
from kdcli.core.types import DataInfo, Feed
from kdcli.data.feed import Score
from kdcli.engine.checkpoint import load_weights
from kdcli.engine.hardware import Choice
from kdcli.engine.runtime import Runtime
from kdcli.errors import UsageError
from kdcli.files import given_by_the_user, read_bytes
from kdcli.jobs.build import batch_norms, compiling, sights, tuned
from kdcli.jobs.build.class_weights import class_weights
from kdcli.jobs.build.data_subset import soft_label_entropies
from kdcli.jobs.build.datasets import open_feed
from kdcli.jobs.build.engine_settings import make_runtime
from kdcli.jobs.build.factory_teacher import factory_teacher
from kdcli.jobs.build.labels import check_labels
from kdcli.jobs.build.logit_cache import Stored, Wanted, alike
from kdcli.jobs.build.method import make_method, method_class
from kdcli.jobs.build.networks import check_sees, fresh_network
from kdcli.jobs.build.ready_answers import ready_answers
from kdcli.jobs.build.recipe_checks import (
    check_answered,
    check_divisible,
    check_maps,
    check_parts,
    check_windows,
)
from kdcli.jobs.build.storing import stored_for
from kdcli.jobs.build.teachers import (
    Asked,
    LoadedTeacher,
    between,
    check_tokens,
    load_teacher,
    other_head,
    pretrained_teacher,
)
from kdcli.jobs.build.teachers_class_names import teachers_class_names
from kdcli.jobs.events import Decoding, Listener
from kdcli.jobs.listeners import Audience
from kdcli.models._headed import two_heads
from kdcli.recipe.schema import (
    DistillRecipe,
    NetworkSection,
    Recipe,
    TeacherSection,
    TrainTeacherRecipe,
)
from kdcli.results.places import LARGEST_CODE
from kdcli.results.tuning import TunedNetwork
from kdcli.results.weights_header import read_header


def network_section(recipe: Recipe) -> NetworkSection:
    """The network that a recipe trains: [model] or [student]."""
    if isinstance(recipe, TrainTeacherRecipe):
        return recipe.model
    assert isinstance(recipe, DistillRecipe)
    return recipe.student


@dataclass(frozen=True, slots=True)
class Job:
    """A recipe turned into objects, checked to fit each other; nothing has been written yet.

    code: the Python files that its checkpoint names, by name, as they were read. compiled: the file
    that remembers, for the next run's choice, that these networks have been
    compiled. class_weights: None where classes count alike. release: the network of
    `gates.not_below`. notes: what is to be said of the
    weights that the network starts from, and of its teachers' classes.
    """

    recipe: Recipe
    runtime: Runtime
    feed: Feed
    student: Network
    teachers: tuple[LoadedTeacher, ...]
    reference: LoadedTeacher | None
    method: Method
    stored: tuple[Stored, ...]
    compiled: Path
    class_weights: ClassWeights | None = None
    release: LoadedTeacher | None = None
    notes: tuple[str, ...] = ()
    code: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def answering(self) -> Teacher | None:
        """What the gap is measured to: the one teacher that the method listens to, or the report's
        reference.
        """
        if self.method.teacher_nets:
            each = self.method.teacher_nets
            return (each[0] if len(each) == 1 else Ensemble(each, _shares(self.recipe))).live
        return self.reference.teacher if self.reference is not None else None

    @property
    def ranked_by(self) -> str:
        """The network that chose the training images, where one did."""
        return (
            *(loaded.architecture for loaded in self.teachers),
            self.reference.architecture if self.reference else "",
        )[0]


CheckpointOf = Callable[[TeacherSection], Path]


def build_job(
    recipe: Recipe,
    checkpoint_of: CheckpointOf,
    *,
    decided: Sequence[Wanted] | None = None,
    compiled: compiling.Wanted | None = None,
    settled: tuned.Settled | None = None,
    runs: int = 1,
    trial_tables: Path | None = None,
    listeners: Sequence[Listener] = (),
) -> Job:
    """Builds everything that a recipe names.

    Args:
        checkpoint_of: gives the checkpoint of a teacher's recipe, training it if no run of it
            exists.
        decided: whether the logits of each teacher are stored, instead of what the recipe says: a
            resumed run does what it did before, and a trial, with none, leaves nothing behind.
        compiled: whether the networks are compiled, likewise. settled: what else a resumed run
            began with.
        runs: how many runs will ask the teachers for the same answers, this one counted: storing
            them pays the more.
        trial_tables: a folder for tables of logits instead of the cache: the choices are those of a
            run, and no trace of them is left.
        listeners: hear what is stored before anything is trained.

    Raises:
        KdError: of the usage kind, when something is missing or does not fit.
    """
    runtime = make_runtime(recipe)
    check_parts(recipe, runtime)
    feed = training_feed(recipe, runtime, checkpoint_of, listeners)
    section = network_section(recipe)
    student = _student(recipe, section, feed)
    like = tuned.settle(runtime, recipe.runtime, feed, student, settled)
    check_labels(recipe, feed.info)
    if tasks.named(feed.info.task).fixed_shape:
        runtime.look_ahead(recipe.runtime.teacher_batch, recipe.train.batch_size)
    check_answered(recipe)
    check_maps(recipe)
    teachers = load_teachers(recipe, feed, runtime, checkpoint_of)
    check_windows(recipe, student, teachers)
    reference, release = _beside(recipe, teachers, feed, runtime, checkpoint_of)
    beside = tuple(item for item in (reference, release) if item is not None)
    feed = showing(feed, (*teachers, *beside))
    check_divisible(feed, runtime, (*teachers, *beside))
    stored = alike(
        runtime.ranks,
        lambda wanted: stored_for(recipe, teachers, feed, runtime, wanted, runs, trial_tables),
        decided,
    )
    asked = tuple(
        item.teacher or loaded.asked for item, loaded in zip(stored, teachers, strict=True)
    )
    setup = _setup(recipe, section, feed, runtime, student, teachers, _answering(recipe, asked))
    method = make_method(recipe.method.name, recipe.method.options, setup, given=len(teachers))
    batch_norms.check(method, feed.info.num_train, recipe.train.batch_size, feed.info.input_shape)
    runtime.move(method)
    seen = _compile(recipe, runtime, feed, method, teachers, compiled, like)
    return Job(
        recipe,
        runtime,
        feed,
        student,
        teachers,
        reference,
        method,
        stored,
        seen,
        class_weights(recipe, feed.info, runtime.device),
        release,
        (
            *_notes(section, student, feed.info),
            *(loaded.remark for loaded in teachers if loaded.remark),
            *(line for loaded in teachers for line in loaded.understood),
        ),
        code_of(method.deployable().blueprint, recipe.data.name, recipe.method.name),
    )


def _beside(
    recipe: Recipe,
    teachers: Sequence[LoadedTeacher],
    feed: Feed,
    runtime: Runtime,
    checkpoint_of: CheckpointOf,
) -> tuple[LoadedTeacher | None, LoadedTeacher | None]:
    """What a student is measured beside and does not learn from: the report's reference, where no
    teacher is, and the release that it must not be below.
    """
    wanted, release = recipe.report.reference, recipe.gates.not_below
    return (
        None if teachers or wanted is None else _reference(wanted, feed, runtime, checkpoint_of),
        None if release is None else load_teacher(release, feed.info, runtime),
    )


def code_of(blueprint: Blueprint | None, *names: str) -> dict[str, bytes]:
    """The Python files that a checkpoint of a network names, by name.

    Args:
        names: of its data and its method.
    """
    network = () if blueprint is None else (blueprint.architecture, dict(blueprint.arguments))
    files = trust.files_in([*network, *names])
    return {file: read_bytes(Path(file), LARGEST_CODE) for file in files}


def _compile(
    recipe: Recipe,
    runtime: Runtime,
    feed: Feed,
    method: Method,
    teachers: tuple[LoadedTeacher, ...],
    decided: compiling.Wanted | None,
    like: tuple[TunedNetwork, str] | None,
) -> Path:
    """Compile the networks of a job where that pays; the file that remembers it. like: as of
    `compiling.choose`.
    """
    asked = [loaded.asked for loaded in teachers]
    seen = compiling.seen_path(
        method, asked, (recipe.train.batch_size, *feed.info.input_shape), runtime
    )
    steps = compiling.steps_of(method, recipe.train.epochs, feed.train_batches)
    task = tasks.named(feed.info.task)
    divides = getattr(recipe.optim, "dot", None) is not None  # and goes back through it twice
    choice = (
        runtime.ranks.from_first(
            lambda: compiling.choose(decided or recipe.runtime.compile, runtime, steps, seen, like)
        )
        if task.fixed_shape and not divides
        else Choice("off", "optim.dot" if divides else task.refuses["runtime.compile"])
    )
    compiling.prepare_cache()
    part = runtime.ranks.part(min(recipe.train.batch_size, feed.info.num_train))
    runtime.compile(choice, method, asked, part.stop - part.start)
    if choice.value == "on":
        runtime.compile_expected = compiling.expected_seconds(seen)
    return seen


def training_feed(
    recipe: Recipe,
    runtime: Runtime,
    checkpoint_of: CheckpointOf,
    listeners: Sequence[Listener] = (),
) -> Feed:
    """The batches that a recipe trains on. listeners: hear how a cache of pictures is filled.

    Raises:
        UsageError: a device is to decode images that cannot, or nothing is held out to choose the
            best epoch on or to fit a temperature to. OutOfMemory: the images do not fit on the
            device.
    """
    if recipe.runtime.decode == "device":
        from kdcli.data.decode import check_decoder  # torchvision takes over a second to import

        check_decoder(runtime.device)
    heard = Audience.of(listeners)
    with runtime.memory_errors(
        f"for the images of {recipe.data.name}",
        "-s data.train_limit=N takes fewer, -s runtime.device=cpu the CPU",
    ):
        feed = open_feed(
            recipe.data,
            device=runtime.device,
            seed=recipe.seed,
            batch_size=recipe.train.batch_size,
            workers=recipe.runtime.workers,
            decode=recipe.runtime.decode,
            score=_score(recipe, runtime, checkpoint_of),
            share=runtime.ranks.part if runtime.ranks.size > 1 else None,
            sight=sights.of_section(network_section(recipe)),
            class_names=lambda: teachers_class_names(recipe, checkpoint_of),
            decoded=lambda done, of: heard(Decoding(done, of)),
        )
    for wanted, what in (
        (recipe.chooses_an_epoch, "the best epoch is chosen on held-out data"),
        (recipe.train.calibrate == "on", "a temperature is fitted on held-out data"),
        (recipe.train.patience is not None, "training stops by the agreement on held-out data"),
    ):
        if wanted and not feed.size("val"):
            raise UsageError(
                f"{what}, and nothing is held out",
                hint="set data.val_fraction, or put a val part beside train and test",
            )
    return feed


def showing(feed: Feed, teachers: Sequence[LoadedTeacher]) -> Feed:
    """A feed whose batches hold what each teacher sees."""
    own = [loaded.teacher.sees for loaded in teachers]
    return feed.showing([sees for sees in own if sees is not None])


def _score(recipe: Recipe, runtime: Runtime, checkpoint_of: CheckpointOf) -> Score:
    """Ranks training images by the first teacher, or by the report's reference where the method has
    none.
    """

    def entropies(whole: Feed) -> Tensor:
        if isinstance(recipe, DistillRecipe) and recipe.teacher:
            loaded = _teacher(recipe.teacher[0], whole, runtime, checkpoint_of, recipe.data.views)
        else:
            assert recipe.report.reference is not None  # a recipe without either is refused
            loaded = _reference(recipe.report.reference, whole, runtime, checkpoint_of)
        seen = showing(whole, (loaded,))
        # near ties must fall the same way on all ranks
        return runtime.ranks.from_first(
            lambda: soft_label_entropies(
                loaded.teacher, seen, runtime, recipe.data.select_temperature
            )
        )

    return entropies


def _student(recipe: Recipe, section: NetworkSection, feed: Feed) -> Network:
    shape = feed.info.input_shape
    weighted = section.options.get("weights") is not None
    if weighted and not tasks.named(feed.info.task).pictures:
        check_tokens(section.name, feed.info)
    network = fresh_network(
        section.name,
        num_classes=feed.info.num_classes,
        input_shape=shape,
        options=section.options,
        seed=recipe.seed,
        vocabulary=feed.info.vocabulary_size,
    )
    check_sees(section.name, network, shape)
    if section.init is not None:
        with given_by_the_user():
            path, header = read_header(section.init)
            network.new_head = other_head(header, feed.info)
            load_weights(path, network, but=_head_of(network) if network.new_head else None)
    return network


def _head_of(network: Network) -> str:
    """The path of a network's head in it."""
    paths = (path for path, module in network.named_modules() if module is network.head)
    return str(next(paths))


def _notes(section: NetworkSection, student: Network, info: DataInfo) -> tuple[str, ...]:
    """What a run says of the weights that its network starts from, one sentence each."""
    heads = two_heads(student)
    if not student.new_head:
        return heads
    source = section.init or f"{section.name} ({section.options.get('weights')})"
    what = f"the body is that of {source}, whose head predicts {student.new_head}"
    return (*heads, f"new head for {info.num_classes} classes: {what}")


def load_teachers(
    recipe: Recipe, feed: Feed, runtime: Runtime, checkpoint_of: CheckpointOf
) -> tuple[LoadedTeacher, ...]:
    """The teachers of a recipe, checked to fit the data; none of a train-teacher recipe."""
    chosen = recipe.teacher if isinstance(recipe, DistillRecipe) else ()
    views = recipe.data.views
    loaded = (_teacher(section, feed, runtime, checkpoint_of, views) for section in chosen)
    return tuple(
        replace(each, summary=replace(each.summary, weight=share))
        for each, share in zip(loaded, _shares(recipe), strict=True)
    )


def _teacher(
    section: TeacherSection,
    feed: Feed,
    runtime: Runtime,
    checkpoint_of: CheckpointOf,
    views: int | None,
) -> LoadedTeacher:
    if section.logits is not None:
        return ready_answers(section.logits, section.class_map, feed, runtime, views)
    asked = _asked(section)
    if section.name is not None:
        if catalog.entry("model", section.name).factory is not None:
            return factory_teacher(section.name, section.weights, feed.info, runtime, asked)
        return pretrained_teacher(
            section.name, section.weights, feed.info, runtime, section.taps, asked
        )
    path = section.checkpoint if section.checkpoint is not None else checkpoint_of(section)
    return load_teacher(path, feed.info, runtime, section.taps, asked)


def _asked(section: TeacherSection) -> Asked:
    return Asked(sights.of_section(section), section.view, section.class_map)


def _reference(
    source: str, feed: Feed, runtime: Runtime, checkpoint_of: CheckpointOf
) -> LoadedTeacher:
    path = checkpoint_of(TeacherSection(recipe=source)) if source.endswith(".toml") else source
    return load_teacher(path, feed.info, runtime)


def _answering(recipe: Recipe, teachers: tuple[Teacher, ...]) -> tuple[Teacher, ...]:
    """Several teachers as one that answers by their weighted mean, unless the method asks each."""
    alone = len(teachers) < 2 or method_class(recipe.method.name).asks_each
    return teachers if alone else (Ensemble(teachers, _shares(recipe)),)


def _shares(recipe: Recipe) -> list[float]:
    """Each teacher's share of their mean; they add up to 1."""
    chosen = recipe.teacher if isinstance(recipe, DistillRecipe) else ()
    weights = [section.weight if section.weight is not None else 1.0 for section in chosen]
    total = sum(weights)
    return [weight / total for weight in weights]


def _setup(
    recipe: Recipe,
    section: NetworkSection,
    feed: Feed,
    runtime: Runtime,
    student: Network,
    teachers: tuple[LoadedTeacher, ...],
    answering: tuple[Teacher, ...],
) -> Setup:
    copies = itertools.count(1)

    def build(name: str) -> Network:
        options: Mapping[str, Any] | None = None
        if name == "student":
            name, options = section.name, section.options
        elif name == "teacher" and teachers:
            name, options = teachers[0].architecture, teachers[0].arguments
        shape = feed.info.input_shape
        return fresh_network(
            name,
            num_classes=feed.info.num_classes,
            input_shape=shape,
            options=options,
            seed=recipe.seed,
            copy=next(copies),
            vocabulary=feed.info.vocabulary_size,
        )

    def load(path: str) -> Teacher:
        # a checkpoint along the first teacher's training has the classes of that one
        first = recipe.teacher[:1] if isinstance(recipe, DistillRecipe) else ()
        asked = _asked(first[0]) if first else Asked()
        return load_teacher(path, feed.info, runtime, asked=asked).asked

    return Setup(
        student,
        answering,
        feed.info,
        build,
        load,
        runtime.ranks.gather,
        recipe.seed,
        history=teachers[0].history if teachers else (),
        between=lambda: between(teachers[0], student, feed.info) if teachers else {},
    )
