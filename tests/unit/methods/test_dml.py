"""Mutual learning: its terms by hand, how many peers there are, and that nobody pulls at the
others.
"""

from __future__ import annotations

from math import log

import pytest
from pydantic import ValidationError

from kdcli.methods.dml import MutualLearning, Options
from tests.unit.methods.fixed import fixed_setup, run_stage, values

LOG2, LOG3 = log(2), log(3)

# softmaxes: student [1 2 1]/4, first peer [1 1 2]/4, second peer uniform
Z, P1, P2 = [[0.0, LOG2, 0.0]], [[0.0, 0.0, LOG2]], [[0.0, 0.0, 0.0]]
KL_SWAPPED = LOG2 / 4  # between the first two, either way
KL_TO_UNIFORM = LOG3 - 1.5 * LOG2  # of either from the uniform one
KL_FROM_UNIFORM = sum(log(1 / 3 / p) for p in (1 / 4, 1 / 2, 1 / 4)) / 3


def close(**expected):
    return pytest.approx(expected, rel=1e-9)


def test_with_one_peer_each_learns_from_the_other():
    method = MutualLearning(Options(), fixed_setup(Z, None, {"student": [P1]}))
    assert values(run_stage(method, 0, [1])) == close(
        ce=LOG2, mutual=KL_SWAPPED, peer1_ce=2 * LOG2, peer1_mutual=KL_SWAPPED
    )


def test_with_two_peers_each_learns_from_the_mean_of_the_others():
    setup = fixed_setup(Z, None, {"student": [P1], "mlp": [P2]})
    method = MutualLearning(Options(peers=("student", "mlp"), weight=2, ce_weight=3), setup)
    assert values(run_stage(method, 0, [1])) == close(
        ce=3 * LOG2,
        mutual=2 * (KL_SWAPPED + KL_FROM_UNIFORM) / 2,
        peer1_ce=3 * 2 * LOG2,
        peer1_mutual=2 * (KL_SWAPPED + KL_FROM_UNIFORM) / 2,
        peer2_ce=3 * LOG3,
        peer2_mutual=2 * (KL_TO_UNIFORM + KL_TO_UNIFORM) / 2,
    )


def test_what_one_learns_does_not_change_the_others():
    method = MutualLearning(Options(), fixed_setup(Z, None, {"student": [P1]}))
    run_stage(method, 0, [1]).losses["mutual"].backward()
    assert method.student.logits.grad.abs().sum() > 0
    assert method.peers[0].logits.grad is None or method.peers[0].logits.grad.abs().sum() == 0


def test_all_networks_are_run_once_a_batch_and_the_student_is_shipped():
    method = MutualLearning(Options(), fixed_setup(Z, None, {"student": [P1]}))
    calls = []
    for network in (method.student, *method.peers):
        network.register_forward_hook(lambda *_, network=network: calls.append(network))
    run_stage(method, 0, [1])
    assert calls == [method.student, *method.peers]
    assert method.deployable() is method.student


def test_no_peers_are_refused():
    with pytest.raises(ValidationError, match="peers"):
        Options(peers=())


def test_its_peers_are_watched_by_the_names_of_their_terms():
    method = MutualLearning(
        Options(peers=("student", "mlp")), fixed_setup(Z, None, {"student": [P1], "mlp": [P2]})
    )
    assert dict(method.watched()) == {"peer1": method.peers[0], "peer2": method.peers[1]}
