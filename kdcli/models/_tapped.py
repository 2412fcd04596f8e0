"""Tapped: a network that somebody else wrote, with taps at modules of it by their paths.

A forward hook keeps what a module gives. One pass with an empty picture finds how: a map
[B,C,h,w], a map with its channels last, a row of tokens (laid out as a map, class token and other
extra ones apart), or a vector.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdcli.core.network import Network
from kdcli.core.types import Output, Tap
from kdcli.errors import Incompatible, NotFound
from kdcli.models._checks import check_taps
from kdcli.models._headed import Headed
from kdcli.models._meta import dry_run, evaluating, stride_of

Shape = tuple[int, int, int]
_QUARTERS = 4
_MOST_EXTRA = (
    16  # tokens before those of the picture: a class token, a distillation token, registers
)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a module gives, seen as a tap. extra: tokens before those of the picture. height, width:
    places of the map; 0 for a vector.
    """

    kind: Literal["map", "channels last", "tokens", "vector"]
    channels: int
    height: int = 0
    width: int = 0
    extra: int = 0

    def map_of(self, value: Tensor) -> Tensor:
        """A module's output as a map [B,C,h,w], or as the vector [B,D] that it is."""
        if self.kind == "tokens":
            rows = value[:, self.extra :].transpose(1, 2)
            return rows.reshape(rows.shape[0], self.channels, self.height, self.width)
        return value.permute(0, 3, 1, 2) if self.kind == "channels last" else value

    def vector_of(self, value: Tensor) -> Tensor:
        """A module's output as a vector [B,D]: the class token where there is one, else the mean
        over the places.
        """
        if self.kind == "vector":
            return value
        if self.kind == "tokens":
            return value[:, 0] if self.extra else value.mean(1)
        return self.map_of(value).mean((2, 3))


@dataclass(slots=True)
class Seen:
    """A module in one pass. shape: of its first tensor, with a batch of 1; None where it gives
    none. calls: how often it ran. changed: whether something wrote into its output afterwards.
    layout: None where its output is neither map, tokens nor vector. before: paths of what ran up to
    its end, the outermost ones. around: paths of the modules that it ran within. activation: the
    path of the activation in it whose output is its own; "" where it does not end in one. norms:
    paths of the batch norms that ran in it, in order.
    """

    shape: tuple[int, ...] | None = None
    calls: int = 0
    changed: bool = False
    layout: Layout | None = None
    before: tuple[str, ...] = ()
    around: tuple[str, ...] = field(default=())
    activation: str = ""
    norms: tuple[str, ...] = ()


class Tapped(Headed):
    """Somebody's network with taps at its modules.

    Args:
        headed: the network, split before its head; its parts are taken over.
        paths: tap -> path of a module of it. "pooled" stays what feeds the head unless given.
        seen: what `survey` says of it.
        pre: whether each stage of maps also has the tap ".pre": what its last activation is given,
            or the stage itself where it does not end in one.
    """

    def __init__(
        self,
        headed: Headed,
        paths: Mapping[str, str],
        seen: Mapping[str, Seen],
        *,
        pre: bool = False,
    ) -> None:
        Network.__init__(self)
        self.name, self.net = headed.name, headed.net
        self.head, self.path, self.second = headed.head, headed.path, headed.second
        self.distilled = headed.distilled
        self.blueprint, self.new_head = headed.blueprint, headed.new_head
        self.paths = dict(paths)
        self._layouts = {tap: layout_of(seen[path]) for tap, path in paths.items()}
        self._seen = {tap: seen[path] for tap, path in paths.items()}
        self._box = _Box()
        for tap, path in paths.items():
            self.net.get_submodule(path).register_forward_hook(
                _Keep(self._box, tap, copy=seen[path].changed)
            )
        self._norms: dict[str, str] = {}
        self._same: dict[str, str] = {}  # ".pre" taps that are their stage
        for stage in [tap for tap in paths if pre and tap.startswith("stage")]:
            if self._layouts[stage].kind == "map":
                self._tap_before(stage, seen[paths[stage]])
        self.taps = {}

    def _tap_before(self, stage: str, seen: Seen) -> None:
        """Adds the tap before the last activation of a stage."""
        tap = f"{stage}.pre"
        last = list(self.net.get_submodule(self.paths[stage]).modules())[-1]
        if type(last).__name__.endswith(
            "Pool2d"
        ):  # of what an activation gave: it has no such place
            return
        self._layouts[tap], self._seen[tap] = self._layouts[stage], seen
        if not seen.activation:
            self._same[tap] = stage
            return
        module = self.net.get_submodule(seen.activation)
        module.register_forward_pre_hook(_KeepBefore(self._box, tap))
        if seen.norms:
            self._norms[tap] = seen.norms[-1]

    def norm_at(self, tap: str) -> nn.BatchNorm2d | None:
        path = self._norms.get(tap)
        norm = None if path is None else self.net.get_submodule(path)
        return norm if isinstance(norm, nn.BatchNorm2d) else None

    def declare(self, height: int) -> None:
        """Sets the channels and strides of the taps, for pictures of that height."""
        found = {
            tap: Tap(
                layout.channels,
                stride_of(height, layout.height) if tap != "pooled" and layout.height else None,
            )
            for tap, layout in self._layouts.items()
        }
        order = [name for tap in self.paths for name in (f"{tap}.pre", tap) if name in found]
        self.taps = {
            **{tap: found[tap] for tap in order if tap != "pooled"},
            "pooled": found.get("pooled", Tap(self.head.in_features, None)),
        }

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        check_taps(self.name, taps, self.taps)
        hooked = tuple(tap for tap in taps if tap in self._layouts)
        kept: dict[str, Tensor] = {}
        self._box.wanted, self._box.kept = tuple(self._same.get(t, t) for t in hooked), kept
        pooled = self.net(x)
        self._box.wanted, self._box.kept = (), {}
        found = {tap: pooled for tap in taps if tap not in hooked}
        for tap in hooked:
            layout = self._layouts[tap]
            found[tap] = (layout.vector_of if tap == "pooled" else layout.map_of)(
                kept[self._same.get(tap, tap)]
            )
        return Output(self.classify(pooled), {tap: found[tap] for tap in taps})

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        check_taps(self.name, (upto,), self.taps)
        if upto not in self._seen:
            return (self.net,)
        seen = self._seen[upto]
        parts = [self.net.get_submodule(path) for path in seen.before]
        loose = [
            parameter
            for path in seen.around
            for parameter in self.net.get_submodule(path).parameters(recurse=False)
        ]
        return (*([nn.ParameterList(loose)] if loose else []), *parts)


class _Box:
    """Where hooks put what is wanted of a pass."""

    def __init__(self) -> None:
        self.wanted: tuple[str, ...] = ()
        self.kept: dict[str, Tensor] = {}


class _Keep:
    """A forward hook. An object, so that a copy of a network has hooks with a box of its own."""

    def __init__(self, box: _Box, tap: str, *, copy: bool) -> None:
        self.box, self.tap, self.copy = box, tap, copy

    def __call__(self, _module: nn.Module, _given: Any, output: Any) -> None:
        if self.tap in self.box.wanted and (value := _first(output)) is not None:
            self.box.kept[self.tap] = value.clone() if self.copy else value


class _KeepBefore:
    """A hook that keeps what an activation is given, before it may write over it."""

    def __init__(self, box: _Box, tap: str) -> None:
        self.box, self.tap = box, tap

    def __call__(self, _module: nn.Module, given: tuple[Any, ...]) -> None:
        if self.tap in self.box.wanted and (value := _first(given)) is not None:
            self.box.kept[self.tap] = value.clone()


def tapped(network: Network, taps: Mapping[str, str], input_shape: Shape) -> Tapped:
    """A network with taps at modules of it instead of its own; "pooled" stays unless given.

    Args:
        taps: tap -> path of a module, as its author's code names it.

    Raises:
        NotFound: there is no such module. Incompatible: what a module gives is no tap, it is called
            several times, or the network is one of kd's kind, which declares its taps.
    """
    headed = _headed(network)
    known = [path for path, _ in headed.net.named_modules() if path]
    for tap, path in taps.items():
        if path not in known:
            near = difflib.get_close_matches(path, known, n=3, cutoff=0.4) or known[:3]
            raise NotFound(
                f"{headed.name} has no module {path!r}, which taps gives for {tap!r}",
                hint=f"near it are {', '.join(near)}; kd models {headed.name} --taps lists all",
            )
    seen = survey(headed, input_shape)
    for tap, path in taps.items():
        if refusal := _no_tap(seen[path]):
            raise Incompatible(
                f"{path!r} of {headed.name} cannot be the tap {tap!r}: {refusal}",
                hint=f"kd models {headed.name} --taps lists the modules that can",
            )
    return fitted(headed, dict(sorted(taps.items(), key=_place)), seen, input_shape)


def _headed(network: Network) -> Headed:
    """The network as features and a head, without hooks of taps that it had."""
    if not isinstance(network, Headed):
        name = getattr(network, "name", type(network).__name__)
        raise Incompatible(
            f"{name} declares its taps itself: no other modules can be tapped",
            hint=f"its taps are {', '.join(network.taps)}",
        )
    for module in network.net.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):  # noqa: SLF001
            for key in [k for k, hook in hooks.items() if isinstance(hook, _Keep | _KeepBefore)]:
                del hooks[key]
    return network


def _place(item: tuple[str, str]) -> tuple[bool, int]:
    """Sorts taps: stem, stage1, stage2, ..."""
    stage = item[0].removeprefix("stage")
    return item[0] == "pooled", int(stage) if stage.isdigit() else 0


def modules(network: Network, input_shape: Shape) -> dict[str, tuple[nn.Module, Layout]]:
    """The modules of a network that can be taps, by path, in the order of the modules.

    Raises:
        Incompatible: as `tapped`.
    """
    headed = _headed(network)
    return {
        path: (headed.net.get_submodule(path), seen.layout)
        for path, seen in survey(headed, input_shape).items()
        if can_tap(seen) and seen.layout is not None
    }


def fitted(
    headed: Headed,
    paths: Mapping[str, str],
    seen: Mapping[str, Seen],
    input_shape: Shape,
    *,
    pre: bool = False,
) -> Tapped:
    """A network with taps at modules that a survey has found fit. pre: as of `Tapped`."""
    network = Tapped(headed, paths, seen, pre=pre)
    network.declare(input_shape[1])
    return network


def quarters(paths: Sequence[str]) -> dict[str, str]:
    """Four stages of a row of equal blocks, each a quarter of it: tap -> path of its last block. A
    shorter row has a stage a block.
    """
    number = min(_QUARTERS, len(paths))
    ends = [math.ceil(len(paths) * part / number) for part in range(1, number + 1)]
    return {f"stage{part}": paths[end - 1] for part, end in enumerate(ends, 1)}


def blocks(paths: Sequence[str]) -> dict[str, str]:
    """The blocks of a row, first to last: tap -> path of the block."""
    return {f"block{number}": path for number, path in enumerate(paths, 1)}


def _no_tap(seen: Seen) -> str:
    """Why a module can be no tap; "" where it can."""
    if not seen.calls:
        return "it does not run when the network answers a picture"
    if seen.calls > 1:
        return f"it runs {seen.calls} times for one answer, so it is no one place"
    if seen.shape is None:
        return "it gives no tensor"
    if seen.layout is None:
        shape = "x".join(map(str, seen.shape[1:]))
        return f"what it gives ({shape} for a picture) is no map, no tokens of a grid and no vector"
    return ""


def can_tap(seen: Seen) -> bool:
    """Tells whether a module can be a tap."""
    return not _no_tap(seen)


def layout_of(seen: Seen) -> Layout:
    """The layout of a module that can be a tap."""
    assert seen.layout is not None
    return seen.layout


def survey(headed: Headed, input_shape: Shape, *, channels_last: bool = False) -> dict[str, Seen]:
    """What each module gives for one picture, by path, in the order of the modules.

    Nothing is computed where the network can run on meta tensors; else it answers one black
    picture.

    Args:
        channels_last: what to take [B,8,8,8] for.

    Raises:
        Incompatible: it cannot take such pictures.
    """
    watched = _Survey(headed.net, input_shape, channels_last=channels_last)
    with contextlib.suppress(Exception):
        return watched.run(meta=True)
    watched = _Survey(headed.net, input_shape, channels_last=channels_last)
    try:
        return watched.run(meta=headed.head.weight.is_meta)
    except Exception as error:
        _, height, width = input_shape
        first_line = str(error).partition("\n")[0]
        raise Incompatible(
            f"{headed.name} cannot take pictures of {height}x{width}: {first_line}"
        ) from error


class _Survey:
    """One pass, watched."""

    def __init__(self, net: nn.Module, input_shape: Shape, *, channels_last: bool) -> None:
        self.net, self.shape, self.channels_last = net, input_shape, channels_last
        self.seen = {path: Seen() for path, _ in net.named_modules() if path}
        self.open: list[str] = []
        self.done: list[str] = []
        self.outputs: list[tuple[str, Tensor, int]] = []

    def run(self, *, meta: bool) -> dict[str, Seen]:
        handles = []
        for path, module in self.net.named_modules():
            if path:
                handles += [
                    module.register_forward_pre_hook(self._enter(path)),
                    module.register_forward_hook(self._leave(path)),
                ]
        try:
            if meta:
                dry_run(self.net, self.shape)
            else:
                with evaluating(self.net):
                    weight = next(self.net.parameters())
                    self.net(torch.zeros(1, *self.shape, device=weight.device))
        finally:
            for handle in handles:
                handle.remove()
        for path, output, version in self.outputs:
            self.seen[path].changed |= output._version != version  # noqa: SLF001
        self._ends()
        return self.seen

    def _ends(self) -> None:
        """Notes which modules end in an activation, and the batch norms that ran in each."""
        kinds = {path: self.net.get_submodule(path) for path, _, _ in self.outputs}
        acts = [(path, out) for path, out, _ in self.outputs if _is_activation(kinds[path])]
        norms = [path for path, kind in kinds.items() if isinstance(kind, nn.BatchNorm2d)]
        before = dict(itertools.pairwise(kinds))  # by module the one that ended next
        for path, output, _ in self.outputs:
            seen, inside = self.seen[path], (path, f"{path}.")
            ends = [each for each, out in acts if out is output and _within(each, inside)]
            seen.activation = ends[-1] if ends else ""
            seen.norms = tuple(
                each
                for each in norms
                # what ran beside a sum, in the shortcut, is not what feeds it; an activation alone
                # is fed by what ended just before
                if (_within(each, inside) or (path in ends and before.get(each) == path))
                and not {"downsample", "shortcut"} & set(each.split("."))
            )

    def _enter(self, path: str) -> Any:
        return lambda *_: self.open.append(path)

    def _leave(self, path: str) -> Any:
        def note(_module: nn.Module, _given: Any, output: Any) -> None:
            self.open.remove(path)
            seen = self.seen[path]
            seen.calls += 1
            self.done = [
                each for each in self.done if not each.startswith(f"{path}.") and each != path
            ]
            self.done.append(path)
            seen.before, seen.around = tuple(self.done), ("", *self.open)
            value = _first(output)
            if value is not None:
                seen.shape = tuple(value.shape)
                seen.layout = _layout(seen.shape, self.shape, channels_last=self.channels_last)
                self.outputs.append((path, value, value._version))  # noqa: SLF001

        return note


def _within(path: str, module: tuple[str, str]) -> bool:
    return path == module[0] or path.startswith(module[1])


def _is_activation(module: nn.Module) -> bool:
    """Tells whether a module is an activation, torch's or timm's."""
    home = type(module).__module__
    return not isinstance(module, nn.MultiheadAttention) and (
        home == "torch.nn.modules.activation" or home.startswith("timm.layers.activations")
    )


def _first(output: Any) -> Tensor | None:
    """The first tensor of what a module gives, or None."""
    if isinstance(output, Mapping):
        output = next(iter(output.values()), None)
    elif isinstance(output, tuple | list):
        output = output[0] if output else None
    # whatever a tracer hands over stands for a tensor
    return output if hasattr(output, "shape") else None


def _layout(shape: tuple[int, ...], picture: Shape, *, channels_last: bool) -> Layout | None:
    _, high, wide = picture

    def grid(height: int, width: int) -> bool:
        return abs(height * wide - width * high) < max(high, wide)

    if len(shape) == 2:
        return Layout("vector", shape[1])
    if len(shape) == 4:
        first, last = grid(*shape[2:]), grid(*shape[1:3])
        if last and (channels_last or not first):
            return Layout("channels last", shape[3], *shape[1:3])
        return Layout("map", shape[1], *shape[2:]) if first else None
    if len(shape) == 3:
        # more of them than of the picture's would let any row of tokens be a grid
        for extra in range(min(_MOST_EXTRA, shape[1] // 2) + 1):
            count = shape[1] - extra
            height = max(round(math.sqrt(count * high / wide)), 1)
            width = count // height
            # patches divide a picture, so their grid has its very proportions
            if count and height * width == count and height * wide == width * high:
                return Layout("tokens", shape[2], height, width, extra)
    return None
