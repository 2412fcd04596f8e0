"""kd's side of a comparison is kd's own loop, on as many images as the rival's."""

from __future__ import annotations

import pytest
import torch

from benchmarks.pairs import BATCH
from benchmarks.segments import Bare, Engine, distill_recipe, fill_with_noise, plain_recipe
from benchmarks.textbook import Textbook, make_loader
from kdcli.jobs import build_network
from kdcli.jobs.build.networks import load_network


@pytest.fixture
def plain(pair, place):
    return Engine(plain_recipe(pair, place, "fp32", batches=4))


def distilling(pair, place, teacher, cache):
    return Engine(distill_recipe(pair, place, "fp32", batches=4, teacher=teacher, cache=cache))


def test_all_configurations_train_on_the_images_of_a_textbook_epoch(
    pair, noise, place, teacher, plain
):
    student = build_network(pair.student, num_classes=pair.classes, input_shape=pair.shape)
    loop = Textbook(
        pair,
        student,
        load_network(teacher)[0],
        make_loader(pair, noise, 0, train=True),
        torch.device("cpu"),
    )
    engines = [plain, *(distilling(pair, place, teacher, cache) for cache in ("off", "exact"))]
    counts = [
        segment().images
        for segment in (*(engine.segment for engine in engines), Bare(plain).segment)
    ]
    assert counts == [loop.epoch().images] * 4
    assert counts[0] == 4 * BATCH


def test_each_segment_is_an_epoch_of_its_own_after_some_untimed_steps(plain, monkeypatch):
    asked = []
    feed, whole = plain.job.feed, type(plain.job.feed).train
    monkeypatch.setattr(
        type(feed),
        "train",
        lambda self, epoch, start=0: (asked.append((epoch, start)), whole(self, epoch, start))[1],
    )
    plain.segment()
    assert len(plain.epochs(2)) == 2
    assert asked == [(1, 2), (2, 0), (3, 2), (4, 0), (5, 0)]


def test_weights_change_in_every_segment(plain):
    network = plain.job.method.deployable()
    before = network.head.weight.clone()
    plain.segment()
    between = network.head.weight.clone()
    plain.segment()
    assert not torch.equal(before, between)
    assert not torch.equal(between, network.head.weight)


def test_a_table_filled_with_noise_spares_every_pass_of_the_teacher(
    pair, place, teacher, monkeypatch
):
    engine = distilling(pair, place, teacher, "exact")
    fill_with_noise(engine)
    (loaded,) = engine.job.teachers

    def refuse(*_):
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(type(loaded.asked), "__call__", refuse)
    engine.segment()
    assert engine.choices["teacher_logits"]["value"] == "exact"
    with pytest.raises(AssertionError, match="asked"):
        distilling(pair, place, teacher, "off").segment()


def test_the_floor_computes_as_kd_chose_to(pair, place, plain):
    bare = Bare(plain)
    before = bare.network.head.weight.clone()
    bare.segment()
    assert not torch.equal(before, bare.network.head.weight)
    ours, theirs = bare.job.runtime, plain.job.runtime
    assert (ours.dtype, ours.channels_last, ours.threads) == (
        theirs.dtype,
        theirs.channels_last,
        theirs.threads,
    )
    assert all(batch.x.is_contiguous(memory_format=torch.channels_last) for batch in bare.batches)


def test_equal_numerics_are_float32_for_student_and_teacher(pair, place, teacher):
    choices = distilling(pair, place, teacher, "off").choices
    assert choices["precision"]["value"] == "fp32"
    assert choices["teacher"]["value"] == "fp32"
