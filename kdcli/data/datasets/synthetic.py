"""Made-up vectors whose classes are as alike, and as hard to tell apart, as you say.

Follows the synthetic task of Tang et al., Understanding and Improving Knowledge Distillation
(arXiv:2002.03532). Classes come in superclasses; class k has a unit vector w_k, and siblings are
alike to the degree `similarity`. An input is x ~ N(0, I) [d], and with u = x/|x| its label is

    argmax_k  w_k.u + sum_{m=1..M} sin(a_m w_k.u + b_m),      a_m = a_scale * m * sqrt(d),  b_m
    uniform in [0, 2 pi).

w_k.u has a standard deviation of 1/sqrt(d), so only frequencies of that order bend the borders
between classes: with a_m near 1 the labels are those of a linear classifier. `linear_agreement`
says how far they are from that. `a_scale` was chosen by the accuracies that the paper reports; with
1.5 hardly anything can be learnt. What can be learnt also depends on b, and so on the world:
docs/results/synthetic.md has the figures.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from pydantic import Field, model_validator

from kdcli.core import random
from kdcli.core.options import Options as _Options
from kdcli.data.bounds import check_memory
from kdcli.data.source import ImageArrays

DATASETS: dict[str, dict[str, Any]] = {
    "synthetic": {
        "summary": "made-up vectors with classes as alike and as hard as you say: no download",
        "classes": None,
        "shape": None,
        "train": None,
        "test": None,
        "megabytes": 0,
        "download": False,
        "augment": {},
    },
}

_ROWS = 8192  # inputs labelled at a time: their scores in float64 must fit


class Options(_Options):
    """[data] of synthetic."""

    dim: int = Field(500, ge=2, le=100_000, description="Length d of an input.")
    classes: int = Field(50, ge=2, le=10_000, description="Number of classes.")
    superclasses: int = Field(
        10, ge=1, description="Number of superclasses, each of the same number of classes."
    )
    similarity: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Cosine between the first class of a superclass and its siblings.",
    )
    exact: bool = Field(
        default=False,
        description=(
            "Make all other cosines exact too; with similarity 0 all classes are then orthogonal."
        ),
    )
    harmonics: int = Field(
        1,
        ge=0,
        le=100,
        description="Number M of sine terms; 0 makes the classes linearly separable.",
    )
    a_scale: float = Field(
        0.8, ge=0, description="Frequency of the sines, in units of sqrt(dim): higher is harder."
    )
    train: int = Field(50_000, ge=2, description="Number of training samples.")
    test: int = Field(10_000, ge=1, description="Number of test samples.")
    world: int = Field(
        0, ge=0, description="Seed of the task itself; the recipe's seed does not change the data."
    )

    max_gb: float = Field(
        8.0, gt=0, description="Refuse to make data of more GB than this: a bound, no target."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.classes % self.superclasses:
            raise ValueError(
                f"classes ({self.classes}) must be a multiple of superclasses ({self.superclasses})"
            )
        if self.superclasses > self.dim:
            raise ValueError(
                f"superclasses ({self.superclasses}) cannot be more than dim ({self.dim}): "
                "their directions are orthogonal"
            )
        if self.exact and self.classes > self.dim:
            raise ValueError(
                f"exact needs as many dimensions as classes: classes ({self.classes}) is "
                f"more than dim ({self.dim})"
            )
        return self


def load(name: str, *, options: Options, root: Path) -> ImageArrays:  # noqa: ARG001  all families share this signature
    """The task that the options describe. x: [n,1,1,d] float32, not normalised: each coordinate is
    N(0, 1) already.

    Raises:
        UsageError: it would take more memory than `max_gb`, or than there is.
    """
    count = options.train + options.test
    # inputs in float32, labels, and the vectors of the classes with what they are made of
    needed = count * (4 * options.dim + 8) + 24 * options.classes * options.dim
    check_memory(
        needed,
        options.max_gb,
        f"synthetic data of {count:,} samples, {options.dim:,} long,",
        "lower data.train, data.test or data.dim",
    )
    siblings = options.classes // options.superclasses
    x_train, y_train = _samples(options, "train", options.train)
    x_test, y_test = _samples(options, "test", options.test)
    return ImageArrays(
        x_train=torch.from_numpy(x_train)[:, None, None],
        y_train=torch.from_numpy(y_train),
        x_test=torch.from_numpy(x_test)[:, None, None],
        y_test=torch.from_numpy(y_test),
        class_names=tuple(
            f"{number // siblings}.{number % siblings}" for number in range(options.classes)
        ),
        mean=(0.0,),
        std=(1.0,),
        superclass=torch.arange(options.classes) // siblings,
    )


def class_vectors(options: Options) -> NDArray[np.float64]:
    """Unit vectors of the classes [K,d], superclass by superclass, the base class u_c of each
    first.

    A sibling is similarity * u_c + sqrt(1 - similarity^2) * r, with r a random unit vector
    orthogonal to every u (to its own u_c where superclasses fill the space): so base and sibling
    have exactly the cosine asked for, two siblings about its square, classes of different
    superclasses about 0. With `exact` the r are orthogonal to each other too, and both "about"
    become exact.
    """
    draws = _generator(options, "classes")
    siblings = options.classes // options.superclasses - 1
    bases = np.linalg.qr(draws.standard_normal((options.dim, options.superclasses)))[0].T
    random_parts = draws.standard_normal((options.superclasses, siblings, options.dim))
    if options.superclasses < options.dim:
        random_parts -= random_parts @ bases.T @ bases
    else:
        random_parts -= np.einsum("csd,cd->cs", random_parts, bases)[..., None] * bases[:, None]
    if options.exact:
        flat = random_parts.reshape(-1, options.dim)
        random_parts = np.linalg.qr(flat.T)[0].T.reshape(random_parts.shape)
    random_parts /= np.linalg.norm(random_parts, axis=-1, keepdims=True)
    own = options.similarity * bases[:, None] + math.sqrt(1 - options.similarity**2) * random_parts
    return np.concatenate([bases[:, None], own], axis=1).reshape(options.classes, options.dim)


def linear_agreement(source: ImageArrays, options: Options) -> float:
    """Share of test samples whose label is also that of the linear classifier argmax_k w_k.x: 1
    means the sines do nothing.
    """
    vectors = torch.from_numpy(class_vectors(options))
    linear = (source.x_test.flatten(1).double() @ vectors.T).argmax(1)
    return (linear == source.y_test).double().mean().item()


def _generator(options: Options, purpose: str) -> Generator:
    return Generator(Philox(key=random.key(options.world, f"synthetic {purpose}")))


def _samples(
    options: Options, part: str, count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Inputs [n,d] and labels [n]. Labels are computed in float64, so that no two machines round
    one to another class.
    """
    vectors = class_vectors(options)
    phases = _generator(options, "phases").uniform(0, 2 * math.pi, options.harmonics)
    x = _generator(options, part).standard_normal((count, options.dim), dtype=np.float32)
    y = np.empty(count, np.int64)
    for at in range(0, count, _ROWS):
        rows = x[at : at + _ROWS].astype(np.float64)
        cosines = rows @ vectors.T / np.linalg.norm(rows, axis=1, keepdims=True)
        y[at : at + _ROWS] = _scores(options, cosines, phases).argmax(1)
    return x, y


def _scores(
    options: Options, cosines: NDArray[np.float64], phases: NDArray[np.float64]
) -> NDArray[np.float64]:
    scores = cosines.copy()
    for harmonic, phase in enumerate(phases, start=1):
        scores += np.sin(options.a_scale * harmonic * math.sqrt(options.dim) * cosines + phase)
    return scores
