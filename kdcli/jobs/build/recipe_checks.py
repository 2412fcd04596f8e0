"""What parts of a recipe cannot go together, as far as only their contents show."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdcli import tasks
from kdcli.core.network import Network
from kdcli.core.types import Feed
from kdcli.data.text import LONGER
from kdcli.engine.runtime import Runtime
from kdcli.engine.teachers.ready import NoNetwork
from kdcli.errors import Incompatible, UsageError
from kdcli.jobs.build.datasets import augmentation
from kdcli.jobs.build.method import method_class
from kdcli.jobs.build.networks import checked_header
from kdcli.jobs.build.teachers import LoadedTeacher
from kdcli.recipe.schema import (
    DataSection,
    DistillRecipe,
    Recipe,
)


def check_parts(recipe: Recipe, runtime: Runtime) -> None:
    """Refuses what cannot go together, before anything is opened.

    Raises:
        KdError: as the others of this module.
    """
    check_sources(recipe)
    check_mixes(recipe.data, recipe.method.name)
    check_divided(recipe, runtime)
    check_weights(recipe)
    check_views(recipe)
    check_sharded(recipe)


def check_sharded(recipe: Recipe) -> None:
    """Refuses to divide a teacher's weights among devices where there is one, or no teacher.

    Raises:
        UsageError: says which.
    """
    if not recipe.runtime.shard_teacher:
        return
    chosen = recipe.teacher if isinstance(recipe, DistillRecipe) else ()
    ready = bool(chosen) and all(section.logits is not None for section in chosen)
    problem = None
    if not isinstance(recipe, DistillRecipe):
        problem = f"{recipe.KIND} has no teacher"
    elif ready or (not chosen and recipe.report.reference is None):
        problem = (
            "ready-made answers (teacher.logits) have none" if ready else "there is no teacher"
        )
    elif recipe.runtime.devices == 1:
        raise UsageError(
            "runtime.shard_teacher divides the teacher's weights among devices, and this is one",
            hint="--devices 2 or more, or leave it out",
        )
    if problem is not None:
        raise UsageError(
            f"runtime.shard_teacher divides a teacher's weights among devices, and {problem}",
            hint="leave it out",
        )


def check_divisible(feed: Feed, runtime: Runtime, teachers: Sequence[LoadedTeacher]) -> None:
    """Asks teachers of which each rank holds a part about one picture, before anything is written:
    somebody's own network may not bear to be divided.

    Raises:
        Incompatible: one does not.
    """
    if not runtime.shards:
        return
    batch = runtime.place(next(iter(feed.sample("train", 1))))
    for loaded in teachers:
        if not isinstance(loaded.teacher.live.network, NoNetwork):
            loaded.teacher(batch, tuple(loaded.teacher.network.taps))
            loaded.asked(batch)


def check_mixes(data: DataSection, method: str) -> None:
    """Refuses mixtures of pictures to a method that is not right on them.

    Raises:
        Incompatible: it reads labels, or what belongs to one picture, in a way of its own.
    """
    if augmentation(data).mixes and not method_class(method).mixes:
        raise Incompatible(
            f"data.augment mixes pictures, and {method} takes each for one picture of one class",
            hint="leave mixup and cutmix out, or a method that mixes: kd, skd, dist, at, ...",
        )


def check_divided(recipe: Recipe, runtime: Runtime) -> None:
    """Refuses momenta of labels and distillation where there is nothing to keep apart, or no way.

    Raises:
        Incompatible: the method's loss has no two parts, or fp16 scales it as a whole.
    """
    if getattr(recipe.optim, "dot", None) is None:
        return
    name, cls = recipe.method.name, method_class(recipe.method.name)
    if reason := cls.undivided(cls.Options(**recipe.method.options)):
        raise Incompatible(
            f"optim.dot keeps the gradients of labels and of the teacher apart, and {name} has no "
            f"loss of two parts: {reason}",
            hint="leave optim.dot out, or a method such as kd, dkd or crd",
        )
    if recipe.runtime.compile == "on":
        raise Incompatible(
            "optim.dot goes back through a network twice, and compiled ones can once",
            hint='runtime.compile = "off"',
        )
    if runtime.dtype == torch.float16:
        raise Incompatible(
            "optim.dot takes two gradients of a step, and fp16 scales its loss for one",
            hint='runtime.precision = "bf16" or "fp32"',
        )


def check_views(recipe: Recipe) -> None:
    """Refuses a teacher that is to see others than the mixtures which its student sees.

    Raises:
        Incompatible: pictures are mixed, and the teacher's view is another one.
    """
    for section in recipe.teacher if isinstance(recipe, DistillRecipe) else ():
        if section.view != "same" and augmentation(recipe.data).mixes:
            raise Incompatible(
                f"teacher.view is {section.view}, and data.augment mixes pictures: the teacher "
                "would not see the mixtures that its student sees",
                hint='teacher.view = "same", or leave mixup and cutmix out',
            )


def check_answered(recipe: Recipe) -> None:
    """Refuses a method that asks its teacher for more than ready-made answers hold.

    Raises:
        Incompatible: it does.
    """
    chosen = recipe.teacher if isinstance(recipe, DistillRecipe) else ()
    file = next((section.logits for section in chosen if section.logits is not None), None)
    if file is not None and not method_class(recipe.method.name).cacheable:
        raise Incompatible(
            f"{recipe.method.name} asks its teacher for more than logits, and {file} has nothing "
            "else (teacher.logits)",
            hint="--method kd, or another of those that stored logits serve (kd methods NAME)",
        )


def check_weights(recipe: Recipe) -> None:
    """Refuses weights of teachers to a method that weighs them itself.

    Raises:
        Incompatible: it does.
    """
    chosen = recipe.teacher if isinstance(recipe, DistillRecipe) else ()
    name = recipe.method.name
    if method_class(name).asks_each and any(section.weight is not None for section in chosen):
        raise Incompatible(
            f"teacher.weight and {name} exclude each other: it weighs its teachers itself, picture "
            "by picture",
            hint="leave the weights out, or --method kd, which learns from the weighted mean",
        )


def check_maps(recipe: Recipe) -> None:
    """Refuses a method that compares feature maps where networks have none.

    Raises:
        Incompatible: it does.
    """
    task, name = tasks.of_data(recipe.data.name), recipe.method.name
    if task.pictures:
        return
    cls = method_class(name)
    patterns = cls.patterns(cls.Options(**recipe.method.options))
    if any(pattern != "pooled" for pattern in (*patterns.student, *patterns.teacher)):
        raise Incompatible(
            f"{name} compares feature maps, and text gives networks none",
            hint="a method on logits, such as kd, skd, dkd or kd_topk: kd methods",
        )


def check_windows(recipe: Recipe, own: Network, teachers: Sequence[LoadedTeacher]) -> None:
    """Refuses windows of a text that are longer than a network reads at once.

    Raises:
        Incompatible: one reads less.
    """
    window = recipe.data.options.get("window")
    if not isinstance(window, int):
        return
    longest = window + (LONGER if recipe.data.options.get("random_windows") else 0)
    each = [("the network", own), *(("its teacher", item.teacher.network) for item in teachers)]
    for called, network in each:
        if network.context is not None and longest > network.context:
            up_to = "" if longest == window else f", and random ones have up to {longest}"
            raise Incompatible(
                f"{called} reads {network.context} tokens at once, and a window has "
                f"{window} (data.window){up_to}",
                hint=f"data.window = {network.context - (longest - window)} at most"
                if network.context > longest - window
                else "leave data.random_windows out",
            )


def check_sources(recipe: Recipe) -> None:
    """Looks at the checkpoints that a recipe names before anything that they name is run.

    Raises:
        NotFound: nothing there. BadCheckpoint: damaged or not ours.
    """
    sections = recipe.teacher if isinstance(recipe, DistillRecipe) else ()
    reference = recipe.report.reference
    named = [section.checkpoint for section in sections]
    named += [reference] if reference is not None and not reference.endswith(".toml") else []
    named.append(recipe.gates.not_below)
    for path in named:
        if path is not None:
            checked_header(path)
