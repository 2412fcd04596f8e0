"""Method: what is trained and what the loss is. The engine does everything else."""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from kdcli.core.network import Network
from kdcli.core.options import FeatureOptions
from kdcli.core.options import Options as MethodOptions
from kdcli.core.taps import expand
from kdcli.core.teacher import Teacher
from kdcli.core.types import Arity, Batch, DataInfo, Progress, Step

__all__ = [
    "Arity",
    "FeatureOptions",
    "Method",
    "MethodOptions",
    "Setup",
    "Stage",
    "Taps",
    "on_labels",
]


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a method may know of the world: no device, rank, dtype, path or logger in it.

    build: fresh weights of "student", "teacher" or a network by name; each call gives independent
    ones.
    load: another checkpoint, as a teacher.
    gather: concatenates [B,...] over ranks; the identity on one device.
    seed: for `kdcli.core.random.key`, where a loss draws numbers: never from a generator.
    history: checkpoints along the first teacher's training, earliest first: what `train.keep_every`
    kept, and last the teacher itself.
    between: the zoo's networks of the teacher's family that lie between teacher and student in
    size, with their numbers of parameters, largest first.
    """

    student: Network
    teachers: tuple[Teacher, ...]
    data: DataInfo
    build: Callable[[str], Network]
    load: Callable[[str], Teacher]
    gather: Callable[[Tensor], Tensor]
    seed: int = 0
    history: tuple[str, ...] = ()
    between: Callable[[], Mapping[str, int]] = dict


def on_labels(term: str) -> bool:
    """Tells by its name whether a term of a loss is the cross-entropy with labels: "ce", or a
    network's own, "peer1_ce".
    """
    return term == "ce" or term.endswith("_ce")


@dataclass(frozen=True, slots=True)
class Stage:
    """One phase of training.

    trains: the modules whose parameters get gradients; everything else is frozen and in eval mode.
    epochs: None means the recipe's. optim: overrides of the recipe's [optim] keys.
    network: whose validation accuracy the epochs of this stage show; None means what is deployed,
    where the stage trains it.
    """

    name: str
    trains: tuple[nn.Module, ...]
    loss: Callable[[Batch, Progress], Step]
    epochs: int | None = None
    optim: Mapping[str, float] = field(default_factory=dict)
    network: Network | None = None


class Taps(NamedTuple):
    """Taps by name that a method reads of its student and of its teacher."""

    student: tuple[str, ...]
    teacher: tuple[str, ...]


class Method(nn.Module, ABC):
    """A distillation method. The usual subclass defines Options and `loss` and nothing else.

    Extra trainable modules are submodules, memory banks are buffers keyed by batch.index: then they
    are trained, saved, resumed and wrapped without another word.

    A subclass names its options class once, as the annotation of `options`; `Options` is that
    class. Its taps are patterns (kdcli.core.taps); an instance's are those of its networks.
    consumes and trains are for people, in the list of methods.
    follows_history: it reads Setup.history, so that what its teacher's run kept is part of what
    decides its result.
    writes_on: it asks its teacher about text that the teacher wrote, to which there are no stored
    answers.
    mixes: it reads labels through kdcli.losses.cross_entropy and label_smoothing alone, and so is
    right on mixtures of pictures, whose labels are two.
    scale_free: its loss leaves the scale of the logits free, so that their softmax is no
    probability; where images are held out, a temperature fitted on them is folded into the head.
    asks_each: it asks every one of its teachers, where others get their weighted mean as one.
    one_part: why no loss of it has a part on labels and another one, as a clause; "" where one has.
    labels_for: what it asks for a label of every training picture for, as a clause; "" where
    cross-entropy alone reads labels, which counts where there is one.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    options: MethodOptions
    teachers: ClassVar[Arity] = Arity(1, 1)
    student_taps: ClassVar[tuple[str, ...]] = ()
    teacher_taps: ClassVar[tuple[str, ...]] = ()
    consumes: ClassVar[str]
    trains: ClassVar[str] = "student"
    follows_history: ClassVar[bool] = False
    cacheable: ClassVar[bool] = False
    writes_on: ClassVar[bool] = False
    mixes: ClassVar[bool] = True
    scale_free: ClassVar[bool] = False
    labels_for: ClassVar[str] = ""
    asks_each: ClassVar[bool] = False
    one_part: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "options" in inspect.get_annotations(cls):
            cls.Options = inspect.get_annotations(cls, eval_str=True)["options"]

    def __init__(self, options: MethodOptions, setup: Setup) -> None:
        super().__init__()
        self.options = options
        self.student = setup.student
        self.teacher_nets = setup.teachers
        self.data = setup.data
        self.seed = setup.seed
        who = type(self).__module__.rpartition(".")[2]
        patterns = self.patterns(options)
        self.taps = Taps(
            expand(setup.student, patterns.student, who),
            expand(setup.teachers[0].network, patterns.teacher, who) if setup.teachers else (),
        )

    @classmethod
    def patterns(cls, options: MethodOptions) -> Taps:  # noqa: ARG003  overridden where an option names a tap
        """The tap patterns that a method with these options reads: those of the class unless
        overridden.
        """
        return Taps(cls.student_taps, cls.teacher_taps)

    @classmethod
    def needs_labels(cls, options: MethodOptions) -> str:  # noqa: ARG003  overridden where an option decides
        """What a method with these options asks for a label of every training picture for: that of
        the class unless overridden.
        """
        return cls.labels_for

    @classmethod
    def undivided(cls, options: MethodOptions) -> str:
        """Why no loss of a method with these options has two parts, one on labels and one on what
        else it learns from, as a clause: that of the class, or that labels weigh nothing; "" where
        one has.
        """
        if getattr(options, "ce_weight", None) == 0:
            return "method.ce_weight is 0, and nothing is left of labels"
        return cls.one_part

    @classmethod
    def softening(cls, options: MethodOptions) -> float:
        """The temperature at which a method with these options softens its teacher's answers: what
        the option of that name says unless overridden, and 1 where there is none.
        """
        return float(getattr(options, "temperature", 1.0))

    @property
    def teacher(self) -> Teacher:
        """The only teacher of a method that takes one."""
        return self.teacher_nets[0]

    @classmethod
    def superclass(cls, options: MethodOptions, data: DataInfo) -> Tensor | None:  # noqa: ARG003  overridden where an option gives it
        """The superclass [K] of each class as a method with these options sees it; the data's
        unless overridden.
        """
        return data.superclass

    def loss(self, batch: Batch, at: Progress) -> Step:
        """The loss terms of one minibatch, already weighted."""
        raise NotImplementedError(f"{type(self).__name__} defines neither loss nor stages")

    def stages(self) -> list[Stage]:
        """The phases of training, in order. One that trains the whole method unless overridden."""
        return [Stage("distill" if self.teacher_nets else "train", (self,), self.loss)]

    def on_epoch(self, at: Progress) -> None:
        """Called before each epoch, on resume too."""

    def deployable(self) -> Network:
        """The network to evaluate and ship."""
        return self.student

    def watched(self) -> Mapping[str, Network]:
        """Further networks whose course is worth following beside the one in training, by the names
        that the logs use.
        """
        return {}

    @classmethod
    def aligned(cls, options: MethodOptions, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG003  the methods that align need them
        """Student and teacher logits, each [N,K], as the loss of a method with these options sees
        them beside each other; the raw ones themselves unless overridden.

        Of the class, not of an instance: a gap is also measured long after training, without the
        method's networks.
        """
        return z, v
