"""The gradient of a method's own loss on the student's logits, by autograd: what the method does to
each sample, without a word about its options.

The method is built once more around networks that give back answers that are known, and its loss of
the last stage is differentiated at the student's. That says the truth where the loss is made of the
two networks' logits and of the labels; where it asks for more, for maps, for networks that were
trained beside the student or for weights of its own, those are gone, and nothing is said.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from kdcli.core import random
from kdcli.core.method import Method, Setup, Stage
from kdcli.core.network import Network
from kdcli.core.teacher import Teacher
from kdcli.core.types import Batch, Output, Progress, Tap
from kdcli.errors import Incompatible, KdError
from kdcli.jobs.build.method import method_class
from kdcli.jobs.measure.answers import Answers
from kdcli.trust import named_by

# samples of a minibatch, for losses that compare the samples of one
BATCH = 128


class LabelGradient(NamedTuple):
    """What a method's loss does at the labels' logits of n samples.

    slopes: n dL/dz_iy, [n] float64. temperature: at which the method softens its teacher.
    """

    slopes: Tensor
    temperature: float


class _NoTaps(dict[str, Tap]):
    """The taps of a network of which nothing but its answers is known."""

    def __missing__(self, name: str) -> NoReturn:
        raise Incompatible(f"it reads {name!r} of a network")


class _Known(Network):
    """A network that gives back answers known before: the rows [B,K] that were put there."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.taps = _NoTaps()
        self.network = network
        self.blueprint = network.blueprint
        self.rows = torch.empty(0)

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]  # registered once, as the network's
        """The last layer of the network that gave the answers."""
        return self.network.head

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:  # noqa: ARG002  the answers to x are known
        if taps:
            raise Incompatible(f"its loss reads {taps[0]!r} of a network")
        return Output(self.rows, {})

    def trunk(self, upto: str) -> NoReturn:
        raise Incompatible(f"its loss trains up to {upto!r}")


def label_gradient(student: Answers, teacher: Answers) -> LabelGradient:
    """Differentiates the loss of the student's method, as in the last step of its training.

    In eval mode and in float64, on minibatches of the samples in a drawn order, the same each time.

    Raises:
        Incompatible: the loss asks for more than logits and labels; says what.
    """
    with named_by(f"the header of {student.checkpoint}"):
        cls = method_class(student.method)
    try:
        return _label_gradient(cls, student, teacher)
    except KdError as error:
        problem = error.message
    except Exception as error:  # noqa: BLE001  somebody's own method may ask anything of its networks
        problem = f"{type(error).__name__}: {error}".partition("\n")[0]
    raise Incompatible(f"{student.method} has no loss on logits alone: {problem}")


def _label_gradient(cls: type[Method], student: Answers, teacher: Answers) -> LabelGradient:
    if student.epochs is None:
        raise Incompatible("its checkpoint does not say for how many epochs it was trained")
    options = cls.Options(**student.method_options)
    if taps := [tap for side in cls.patterns(options) for tap in side]:
        raise Incompatible(f"it reads {taps[0]!r} of a network")
    z, v = _Known(student.network), _Known(teacher.network)
    setup = Setup(
        student=z,
        teachers=() if cls.teachers.most == 0 else (Teacher(v),),
        data=student.info,
        build=_refuse,
        load=_refuse,
        gather=lambda x: x,
        history=("earlier", "later"),
        between=lambda: _refuse("an assistant"),
    )
    method = cls(options, setup)
    if {id(each) for each in method.parameters()} - {id(each) for each in z.parameters()}:
        raise Incompatible("it has weights of its own, which the checkpoint does not hold")
    stage = next(one for one in reversed(method.stages()) if z in _modules(one))
    epochs = stage.epochs or student.epochs
    at = Progress(stage.name, epochs, epochs, epochs, epochs)
    slopes = torch.empty(len(student.targets), dtype=torch.float64)
    logits = student.as_trained
    order = random.permutation(random.key(0, "label gradient"), len(slopes))
    for rows in order.tensor_split(-(-len(order) // BATCH)):
        y = student.targets[rows]
        z.rows = logits[rows].double().requires_grad_()
        v.rows = teacher.logits[rows].double()
        loss = sum(stage.loss(Batch(rows, y, rows, torch.zeros_like(rows)), at).losses.values())
        assert isinstance(loss, Tensor)
        (gradient,) = torch.autograd.grad(loss, z.rows)
        # of the mean over the minibatch
        slopes[rows] = len(rows) * gradient.gather(1, y[:, None])[:, 0]
    return LabelGradient(slopes, cls.softening(options))


def _modules(stage: Stage) -> set[nn.Module]:
    return {module for trained in stage.trains for module in trained.modules()}


def _refuse(name: str) -> NoReturn:
    raise Incompatible(f"it asks for a third network ({name}), which is not at hand")
