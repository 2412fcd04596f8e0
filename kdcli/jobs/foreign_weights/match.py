"""The tensors of a file and the network that they are of: which is which, what is too many and what
is missing, and, where nobody said, which network it is.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcli import catalog, formatting
from kdcli.core.network import Network
from kdcli.errors import Incompatible, UsageError
from kdcli.jobs.build.networks import fresh_network
from kdcli.jobs.foreign_weights.read import unwrapped
from kdcli.jobs.model_info import usual_shape
from kdcli.models._headed import Headed
from kdcli.models.published_names import published_names

Shape = tuple[int, int, int]
_COUNTER = "num_batches_tracked"  # which files of old have not, and which nothing depends on
_SHOWN = 4  # names of tensors in a message


@dataclass(frozen=True, slots=True)
class Fit:
    """How the tensors of a file lie in a network.

    found: the file's tensors by their names in the network. prefix: what wraps the network there.
    beside: tensors that have another prefix, or none. missing: names that the network has and the
    file has not, as the file would call them; left_over: the other way round. misshapen: sentences
    about tensors of another shape.
    """

    architecture: str
    num_classes: int
    input_shape: Shape
    found: Mapping[str, Tensor]
    prefix: str
    beside: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def problems(self) -> int:
        """How many tensors keep them from each other."""
        return len(self.missing) + len(self.left_over) + len(self.misshapen)


def fit(
    architecture: str,
    tensors: Mapping[str, Tensor],
    *,
    num_classes: int | None = None,
    input_shape: Shape | None = None,
    drop: Sequence[str] = (),
) -> Fit:
    """The tensors of a file in a network of a name: under that prefix where most of them fit.

    Args:
        num_classes, input_shape: of the network; unless given, as the tensors are, and the
            network's usual pictures.
        drop: beginnings of names; tensors of such names are left out.

    Raises:
        NotFound: no such network. Incompatible: it cannot take such pictures.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(drop))}
    fits = [
        _fit(architecture, prefix, view, num_classes, input_shape, kept)
        for prefix, view in unwrapped(kept)
    ]
    return min(fits, key=lambda each: (each.problems, -len(each.prefix)))


def check(found: Fit, path: str) -> None:
    """Refuses a network that is another one than that of the file.

    Raises:
        Incompatible: lists tensors that are missing, left over or of another shape.
    """
    if not found.problems:
        return
    parts = [
        (found.missing, "missing"),
        (found.left_over, "left over"),
        (found.misshapen, "of another shape"),
    ]
    told = "; ".join(
        f"{formatting.plural(len(names), 'tensor', ' ')} {what}: {formatting.listed(names, _SHOWN)}"
        for names, what in parts
        if names
    )
    only_left_over = not found.missing and not found.misshapen
    hint = (
        "--drop NAME leaves out tensors whose names begin so, if the network answers without them"
        if only_left_over
        else "--model says which network it is; without it kd looks for one that fits"
    )
    raise Incompatible(f"{path} does not fit {found.architecture}: {told}", hint=hint)


def guess(
    path: str,
    tensors: Mapping[str, Tensor],
    *,
    input_shape: Shape | None = None,
    drop: Sequence[str] = (),
) -> Fit:
    """The network of kd's zoo that the tensors of a file fit, all of them.

    Raises:
        UsageError: there is none, or more than one. Incompatible: there is, for other pictures.
    """
    found = _fitting(tensors, input_shape, drop)
    if len(found) == 1:
        return found[0]
    if found:
        names = formatting.listed([each.architecture for each in found], 6)
        raise UsageError(
            f"the tensors of {path} fit several networks: {names}", hint="--model NAME says which"
        )
    if input_shape is not None and (others := _fitting(tensors, None, drop)):
        taken, given = ("×".join(map(str, s)) for s in (others[0].input_shape, input_shape))
        raise Incompatible(
            f"{path} is a {others[0].architecture} for pictures of {taken}, not of {given}",
            hint="-d with the data that it was trained on, or --input with its pictures",
        )
    shapes = [
        f"{name} {list(tensor.shape)}" for name, tensor in itertools.islice(tensors.items(), 2)
    ]
    raise UsageError(
        f"{path} fits no network of kd's zoo: it has "
        f"{formatting.plural(len(tensors), 'tensor', ' ')}, {', '.join(shapes)}, ...",
        hint="--model NAME: kd models lists them, torchvision/NAME, or file.py:factory",
    )


def _fitting(
    tensors: Mapping[str, Tensor], input_shape: Shape | None, drop: Sequence[str]
) -> list[Fit]:
    names = [name for name in catalog.entries("model") if not name.endswith("/*")]
    fits = (
        fit(name, tensors, input_shape=input_shape, drop=drop)
        for name in names
        if _has_all_names(name, tensors, input_shape)
    )
    return [each for each in fits if not each.problems]


def _has_all_names(
    architecture: str, tensors: Mapping[str, Tensor], input_shape: Shape | None
) -> bool:
    """Tells whether each tensor of a network is in a file, of whatever shape."""
    names = _options(architecture, input_shape)
    return bool(names) and any(
        all(any(option in view for option in options) for options in names)
        for _, view in unwrapped(tensors)
    )


@functools.cache
def _options(architecture: str, input_shape: Shape | None) -> tuple[tuple[str, ...], ...]:
    """The names of each tensor that a network cannot be without; none where it cannot take such
    pictures.
    """
    entry = catalog.entry("model", architecture)
    try:
        network = _outline(architecture, 2, input_shape or usual_shape(entry))
    except Incompatible:
        return ()
    return tuple(
        published_names(network, entry.family, key)
        for key in network.state_dict()
        if not key.endswith(_COUNTER)
    )


# ---- one network and one table of tensors --------------------------------------------------------


def _fit(
    architecture: str,
    prefix: str,
    view: Mapping[str, Tensor],
    num_classes: int | None,
    input_shape: Shape | None,
    kept: Mapping[str, Tensor],
) -> Fit:
    entry = catalog.entry("model", architecture)
    shape = input_shape or usual_shape(entry)
    if input_shape is None and entry.factory is not None:
        shape = (_channels_of_the_first(view) or shape[0], *shape[1:])
    module = None if entry.factory is not None else catalog.load(entry)
    if module is not None and hasattr(module, "own_names"):
        view = module.own_names(architecture, view)
    classes = num_classes or _rows_of_the_last(view)
    try:
        network = _outline(architecture, classes, shape)
    except UsageError as error:
        if entry.factory is None or input_shape is not None:
            raise
        raise UsageError(
            error.message, hint="--input CxHxW says what its pictures are, or -d with its data"
        ) from error
    view, file = _of_one_head(network, view), view
    names = _names(network, entry.family, view)
    # what the head and the first convolution say, where nobody else did
    head, first = (view.get(names[key]) for key in ("head.weight", _first(network)))
    wanted = (
        classes if num_classes or head is None or not head.ndim else head.shape[0],
        shape if input_shape or first is None or first.ndim != 4 else (first.shape[1], *shape[1:]),
    )
    if wanted != (classes, shape):
        with contextlib.suppress(Incompatible):  # such as torchvision's, which take 3 channels
            network = _outline(architecture, *wanted)
            classes, shape = wanted
            view = _of_one_head(network, file)
            names = _names(network, entry.family, view)
    expected = network.state_dict()
    taken = {key: name for key, name in names.items() if name in view}
    missing = [n for k, n in names.items() if n not in view and not k.endswith(_COUNTER)]
    return Fit(
        architecture,
        classes,
        shape,
        {key: view[name] for key, name in taken.items()},
        prefix,
        tuple(name for name in kept if not name.startswith(prefix)),
        tuple(missing),
        tuple(_others(view, taken.values())),
        tuple(
            f"{name} is {list(view[name].shape)} and not {list(expected[key].shape)}"
            for key, name in taken.items()
            if view[name].shape != expected[key].shape
        ),
    )


def _of_one_head(network: Network, view: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return network.of_one_head(view) if isinstance(network, Headed) else view


def _rows_of_the_last(view: Mapping[str, Tensor]) -> int:
    """The classes of a network whose head is the last matrix in the file, as it mostly is."""
    matrices = [tensor for tensor in view.values() if tensor.ndim == 2]
    return matrices[-1].shape[0] if matrices and matrices[-1].shape[0] > 0 else 2


def _channels_of_the_first(view: Mapping[str, Tensor]) -> int | None:
    """The channels that the first convolution in the file takes, where there is one."""
    return next((tensor.shape[1] for tensor in view.values() if tensor.ndim == 4), None)


def _outline(architecture: str, num_classes: int, shape: Shape) -> Network:
    """A network without values; with them where a file of the user's builds it, which may need
    them.
    """
    own = catalog.entry("model", architecture).factory is not None
    with contextlib.nullcontext() if own else torch.device("meta"):
        return fresh_network(architecture, num_classes=num_classes, input_shape=shape)


def _first(network: Network) -> str:
    return next((name for name, _ in network.named_parameters()), "head.weight")


def _names(network: Network, family: str, view: Mapping[str, Tensor]) -> dict[str, str]:
    """What the file calls, or would call, each tensor of the network."""
    found = {}
    for key in network.state_dict():
        options = published_names(network, family, key)
        found[key] = next((name for name in options if name in view), options[0])
    return found


def _others(view: Mapping[str, Tensor], taken: Iterable[str]) -> list[str]:
    known = set(taken)
    return [name for name in view if name not in known]
