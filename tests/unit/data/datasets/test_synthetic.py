from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from kdcli.data.datasets.synthetic import Options, class_vectors, linear_agreement, load
from kdcli.data.source import ImageArrays

SMALL: dict[str, Any] = {"dim": 60, "classes": 12, "superclasses": 3, "train": 600, "test": 400}


def make(**options: Any) -> tuple[ImageArrays, Options]:
    chosen = Options(**(SMALL | options))
    return load("synthetic", options=chosen, root=Path()), chosen


def cosines(**options: Any) -> np.ndarray:
    vectors = class_vectors(Options(**(SMALL | options)))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    return vectors @ vectors.T


@pytest.mark.parametrize("similarity", [0.0, 0.2, 0.4])
def test_siblings_have_the_cosine_asked_for(similarity: float) -> None:
    table = cosines(similarity=similarity)
    for base in (0, 4, 8):
        assert np.allclose(table[base, base + 1 : base + 4], similarity)
    assert np.allclose(table[[0, 0, 4], [4, 8, 8]], 0)
    assert np.abs(table[1, 2] - similarity**2) < 0.4
    assert np.abs(table[1, 5]) < 0.5


def test_exact_makes_every_cosine_exact() -> None:
    same_superclass = np.kron(np.eye(3), np.ones((4, 4)))
    expected = 0.4**2 * same_superclass
    for base in (0, 4, 8):
        expected[base, base : base + 4] = expected[base : base + 4, base] = 0.4
    np.fill_diagonal(expected, 1)
    assert np.allclose(cosines(similarity=0.4, exact=True), expected)
    assert np.allclose(cosines(similarity=0, exact=True), np.eye(12))


def test_superclasses_may_fill_the_space() -> None:
    table = cosines(dim=2, classes=4, superclasses=2, similarity=0.6)
    assert np.allclose(table[[0, 2], [1, 3]], 0.6)


def test_without_sines_the_classes_are_linearly_separable() -> None:
    source, options = make(harmonics=0)
    assert linear_agreement(source, options) == 1.0
    vectors = torch.from_numpy(class_vectors(options)).float()
    assert torch.equal((source.x_train.flatten(1) @ vectors.T).argmax(1), source.y_train)


def test_sines_of_high_frequency_make_it_hard_and_of_low_frequency_do_nothing() -> None:
    assert linear_agreement(*make(a_scale=1.5)) < 0.6
    assert linear_agreement(*make(a_scale=0.01)) > 0.97


def test_the_task_as_it_is_unless_told_otherwise_is_bent_but_not_out_of_reach() -> None:
    options = Options(train=2, test=2_000)
    source = load("synthetic", options=options, root=Path())
    # with a_scale 1.5 it is 0.006, and a teacher hardly passes chance
    assert 0.6 < linear_agreement(source, options) < 0.9


def test_labels_follow_the_formula() -> None:
    source, options = make(harmonics=2, a_scale=1.0, world=3)
    from kdcli.data.datasets.synthetic import _generator

    phases = _generator(options, "phases").uniform(0, 2 * np.pi, 2)
    x = source.x_test[0].flatten().double().numpy()
    scores = []
    for vector in class_vectors(options):
        s = vector @ x / np.sqrt(x @ x)
        scores.append(
            s + np.sin(np.sqrt(60) * s + phases[0]) + np.sin(2 * np.sqrt(60) * s + phases[1])
        )
    assert int(np.argmax(scores)) == source.y_test[0]


def test_inputs_are_standard_normal_vectors_and_classes_have_superclasses() -> None:
    source, _ = make()
    assert source.x_train.shape == (600, 1, 1, 60)
    assert source.x_train.dtype == torch.float32
    assert abs(source.x_train.mean()) < 0.02
    assert abs(source.x_train.std() - 1) < 0.02
    assert source.superclass is not None
    assert source.superclass.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert source.class_names[4:6] == ("1.0", "1.1")


def test_the_task_is_the_same_each_time_and_another_in_another_world() -> None:
    assert make()[0].fingerprint == make()[0].fingerprint
    assert make()[0].fingerprint != make(world=1)[0].fingerprint


def test_more_samples_are_a_longer_draw_of_the_same() -> None:
    short, long = make(train=100)[0], make(train=300)[0]
    assert torch.equal(short.x_train, long.x_train[:100])
    assert torch.equal(short.y_train, long.y_train[:100])
    assert not torch.equal(short.x_train, short.x_test[:100])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": 13}, "multiple of superclasses"),
        ({"superclasses": 12, "dim": 10}, "cannot be more than dim"),
        ({"dim": 10, "exact": True}, "as many dimensions"),
    ],
)
def test_impossible_tasks_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Options(**(SMALL | options))
