"""The networks that a search may take: those that were named, or the zoo's, within the budget."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import torch

from kdcli import catalog, formatting
from kdcli.errors import NotFound, UsageError
from kdcli.jobs.build.networks import fresh_network
from kdcli.jobs.measure.costs import latency
from kdcli.jobs.model_info import describe_model, model_members, propose_students
from kdcli.jobs.model_sizes import describe_models
from kdcli.recipe.schema import GatesSection
from kdcli.results.search import Candidate
from kdcli.typed import strict

MOST = 8  # students of one search, unless they are named
_MOST_MATCHES = 100  # of a pattern: each network is built to be counted

Shape = tuple[int, int, int]
_Number = Callable[[Candidate], float | None]


def named(patterns: Sequence[str]) -> list[str]:
    """The networks of some names and patterns, of the zoo ("resnet*") or an adapter
    ("timm/*tiny*").

    Raises:
        NotFound: a name or a pattern is that of no network. UsageError: a pattern matches too many.
    """
    found: list[str] = []
    for pattern in patterns:
        if not set(pattern) & set("*?["):
            found.append(catalog.entry("model", pattern).name)
            continue
        family, slash, _ = pattern.partition("/")
        names = model_members(f"{family}/*") if slash else catalog.entries("model")
        matches = sorted(fnmatch.filter(names, pattern))
        if not matches:
            raise NotFound(f"no network is called {pattern}", hint="kd models PATTERN lists them")
        if len(matches) > _MOST_MATCHES:
            raise UsageError(
                f"{pattern} matches {len(matches)} networks, and a search looks at "
                f"{_MOST_MATCHES} at most",
                hint="a narrower pattern",
            )
        found += matches
    return list(dict.fromkeys(found))


def sized(
    patterns: Sequence[str], teacher: str | None, num_classes: int, shape: Shape
) -> list[Candidate]:
    """Candidates with their sizes, the smallest first.

    Args:
        patterns: as for `named`; without any, the zoo's networks that are smaller than the teacher.
        teacher: its checkpoint, or the name of its network.

    Raises:
        As `named`; Incompatible, where a network that was named cannot take the pictures.
    """
    if not patterns:
        if teacher is None:
            raise UsageError(
                "these teachers do not say how large a student may be",
                hint="name the candidates with --candidates",
            )
        _, proposals = propose_students(teacher, None, num_classes, shape)
        sizes = {each.card.name: each.card.parameters for each in proposals if each.worth_it}
    else:
        sizes = dict(_sizes(named(patterns), patterns, num_classes, shape))
    ordered = sorted(sizes.items(), key=lambda item: (item[1], item[0]))
    return [Candidate(name, parameters, None) for name, parameters in ordered]


def _sizes(
    names: Sequence[str], patterns: Sequence[str], num_classes: int, shape: Shape
) -> Iterator[tuple[str, int]]:
    cards = describe_models(names, num_classes, shape, seconds=math.inf)
    for name, card in cards.items():
        if card is not None:
            yield name, card.parameters
        elif name in patterns:  # of a pattern's networks some are for other pictures
            yield name, describe_model(name, num_classes, shape).parameters


def spread(candidates: Sequence[Candidate], most: int = MOST) -> list[Candidate]:
    """At most so many of them, spread evenly over the logarithm of their sizes."""
    if len(candidates) <= most:
        return list(candidates)
    low, high = (math.log(candidates[end].parameters) for end in (0, -1))
    left = list(candidates)
    chosen = []
    for step in range(most):
        wanted = low + (high - low) * step / (most - 1)
        nearest = min(left, key=lambda each: abs(math.log(each.parameters) - wanted))
        left.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen, key=lambda each: (each.parameters, each.name))


def timed(
    candidates: Sequence[Candidate], num_classes: int, shape: Shape, device: str
) -> list[Candidate]:
    """The candidates with the median time that each takes for one image, eager, on a device."""
    found = []
    for each in candidates:
        network = fresh_network(each.name, num_classes=num_classes, input_shape=shape).to(device)
        took = latency(network, torch.zeros(1, *shape, device=device), 1)
        found.append(Candidate(each.name, each.parameters, 1000 * took.seconds.value))
    return found


def within(
    candidates: Sequence[Candidate], gates: GatesSection
) -> tuple[list[Candidate], list[Candidate]]:
    """Candidates within the limits on size and latency, and the others.

    Raises:
        UsageError: there is none; says the nearest.
    """
    limits: tuple[tuple[float | None, str, _Number, Callable[[float], str]], ...] = (
        (
            gates.max_parameters,
            "--max-parameters",
            lambda each: each.parameters,
            lambda value: formatting.count(round(value)),
        ),
        (
            gates.max_latency_ms,
            "--max-latency",
            lambda each: each.latency_ms,
            lambda value: f"{formatting.milliseconds(value / 1000)} ms",
        ),
    )
    kept = list(candidates)
    for limit, option, number, shown in limits:
        known = [(found, each) for each in kept if (found := number(each)) is not None]
        if limit is None or not known:
            continue
        inside = [each for found, each in known if found <= limit]
        if not inside:
            least, nearest = min(known, key=lambda item: item[0])
            raise UsageError(
                f"no candidate meets {option} {shown(limit)}: the nearest is {nearest.name} with "
                f"{shown(least)}",
                hint=f"raise {option}, or name other networks with --candidates",
            )
        kept = inside
    if not kept:
        raise UsageError(
            "there is no candidate: no network of the zoo is smaller than the teacher",
            hint="name some with --candidates",
        )
    return kept, [each for each in candidates if each not in kept]


def plain(candidates: Sequence[Candidate]) -> list[dict[str, object]]:
    """Candidates as a journal keeps them."""
    return [asdict(each) for each in candidates]


def read(kept: object) -> list[Candidate]:
    """Candidates as a journal kept them.

    Raises:
        ValueError: it keeps something else.
    """
    return list(strict(tuple[Candidate, ...], kept))
