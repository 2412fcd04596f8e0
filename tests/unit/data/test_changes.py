"""Colours, erasing and mixtures: by the draws of kd, what torchvision does, and the same picture to
every network that sees it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from kdcli.core import random
from kdcli.core.types import Batch, Sees
from kdcli.data import decode, mix, paint, streamed
from kdcli.data.augment import Augmentation
from kdcli.data.datasets.folder import Options, load
from kdcli.engine.distributed import Ranks
from kdcli.errors import Incompatible
from kdcli.results.preprocessing import Preprocessing
from tests.unit.data.conftest import pixels, same

ALL = {
    "resized crop": Augmentation(resized_crop=True, scale=(0.3, 1.0), flip=True),
    "jitter": Augmentation(crop=1, flip=True, color_jitter=(0.4, 0.4, 0.4, 0.1)),
    "rand-augment": Augmentation(flip=True, policy="rand-augment"),
    "trivial-augment": Augmentation(crop=2, policy="trivial-augment"),
    "erasing": Augmentation(crop=2, flip=True, erasing=0.8),
    "mixup": Augmentation(flip=True, mixup=1.0),
    "cutmix": Augmentation(crop=1, cutmix=1.0, erasing=0.3),
    "both": Augmentation(crop=1, mixup=0.2, cutmix=1.0),
}
every = pytest.mark.parametrize("name", ALL)


@pytest.mark.parametrize("policy", ["rand-augment", "trivial-augment"])
@pytest.mark.parametrize("name", paint.OPERATIONS)
def test_an_operation_is_torchvision_s(name, policy):
    image = pixels(name, 3, 224, 224)
    theirs = v2.RandAugment() if policy == "rand-augment" else v2.TrivialAugmentWide()
    magnitudes, signed = theirs._AUGMENTATION_SPACE[name]
    assert signed == paint.OPERATIONS[name]
    for place in (3, 17, 30):
        bins = magnitudes(paint.BINS, 224, 224)
        expected = theirs._apply_image_or_video_transform(
            image,
            name,
            float(bins[place]) if bins is not None else 0.0,
            InterpolationMode.NEAREST,
            {torch.Tensor: None},
        )
        size = paint.largest(name, policy) * place / (paint.BINS - 1)
        made = paint.operate(image, name, size)
        # torchvision's magnitudes are float32: a level may round otherwise
        assert (made.int() - expected.int()).abs().max() <= 1, place
        assert (made == expected).float().mean() > 0.999, place


def test_jitter_without_an_amount_changes_nothing_and_each_amount_its_own():
    image = pixels("jitter", 3, 9, 9)
    assert torch.equal(paint.jitter(image, 5, (0.0, 0.0, 0.0, 0.0)), image)
    factors = [
        random.uniform_int(change, 1 << 20) * 0.8 + 0.6 for change in range(20)
    ]  # 1 - 0.4 to 1 + 0.4
    for change, factor in enumerate(factors):
        made = paint.jitter(image, change, (0.4, 0.0, 0.0, 0.0))
        assert torch.equal(made, v2.functional.adjust_brightness(image, factor))
    assert min(factors) < 0.8
    assert max(factors) > 1.2


@every
def test_an_epoch_is_a_function_of_seed_and_number(name, pictures, feed):
    batches = list(feed(pictures, ALL[name]).train(2))
    assert same(batches, list(feed(pictures, ALL[name]).train(2)))
    assert same(batches[3:], list(feed(pictures, ALL[name]).train(2, 3)))
    assert not torch.equal(batches[0].x, next(feed(pictures, ALL[name], seed=1).train(2)).x)


@pytest.mark.parametrize("name", ["jitter", "trivial-augment", "both"])
def test_workers_change_nothing(name, folder, feed):
    source = load("image-folder", options=Options(path=str(folder), size=8), root=folder)
    alone, helped = (list(feed(source, ALL[name], workers=n).train(1)) for n in (0, 1))
    assert same(alone, helped)


@every
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_very_minibatch(name, ranks, pictures, feed):
    whole = list(feed(pictures, ALL[name]).train(1))
    parts = [
        list(feed(pictures, ALL[name], share=Ranks(rank, ranks).part).train(1))
        for rank in range(ranks)
    ]
    for number, batch in enumerate(whole):
        own = [part[number] for part in parts]
        if own[0].whole == len(own[0].y):  # too few to share: each rank does all of it
            own = own[:1]
        for key in ("x", "y", "index", "view"):
            assert torch.equal(torch.cat([getattr(part, key) for part in own]), getattr(batch, key))
        if batch.mixed:
            assert torch.equal(torch.cat([part.mixed.y for part in own]), batch.mixed.y)
            assert {part.mixed.share for part in own} == {batch.mixed.share}
            # a batch that was not cut by the feed is cut alike
            cut = Ranks(1, ranks).share(batch)
            assert torch.equal(cut.mixed.y, batch.mixed.y[Ranks(1, ranks).part(len(batch.y))])


@every
def test_networks_see_the_same_picture(name, pictures, feed):
    made = feed(pictures, ALL[name])
    info = made.info
    grey = Sees(replace(info.pixels, mean=(0.5,) * 3, std=(0.1,) * 3))
    for batch in made.showing([grey]).train(1):
        again = batch.x * torch.tensor(info.std).view(3, 1, 1) / 0.1
        again += (torch.tensor(info.mean) - 0.5).view(3, 1, 1) / 0.1
        seen = batch.others[grey]
        erased = (batch.x == 0) | (seen == 0)  # the mean colour of each
        if ALL[name].erasing:
            assert ((batch.x == 0).all(1) == (seen == 0).all(1)).all()
            again, seen = (x.masked_fill(erased, 0) for x in (again, seen))
        if not (ALL[name].erasing and ALL[name].mixes):
            torch.testing.assert_close(again, seen, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["erasing", "mixup", "cutmix"])
def test_a_network_that_sees_it_twice_as_large_sees_the_same(name, pictures, feed):
    augment = replace(ALL[name], crop=0)  # which is by stored pixels, and so alike for all
    made = feed(pictures, augment)
    large = Sees(
        Preprocessing((3, 12, 18), (12, 18), made.info.mean, made.info.std, interpolation="nearest")
    )
    for batch in made.showing([large]).train(1):
        seen = batch.others[large][:, :, ::2, ::2]
        if augment.erasing:  # edges of the rectangle fall between pixels
            assert ((batch.x == seen).float().mean()) > 0.7
        else:
            torch.testing.assert_close(batch.x, seen)


def test_a_crop_moves_each_network_s_picture_by_the_same_share():
    augment = Augmentation(crop=2, flip=True)
    small = pixels("small", 3, 8, 8)
    large = small.repeat_interleave(3, 1).repeat_interleave(3, 2)
    changes = torch.arange(augment.views)
    moved = augment.apply(small.expand(len(changes), -1, -1, -1), changes)
    same_ = augment.apply(large.expand(len(changes), -1, -1, -1), changes, (8, 8))
    assert torch.equal(same_, moved.repeat_interleave(3, 2).repeat_interleave(3, 3))


def test_pictures_are_mixed_with_the_one_before_and_labels_by_their_share(pictures, feed):
    plain = list(feed(pictures, Augmentation()).train(1))
    for name in ("mixup", "cutmix"):
        augment = Augmentation(**{name: 1.0})
        for whole, mixed in zip(plain, feed(pictures, augment).train(1), strict=True):
            share, before = mixed.mixed.share, whole.x.roll(1, 0)
            assert torch.equal(mixed.mixed.y, whole.y.roll(1, 0))
            if name == "mixup":
                assert share >= 0.5
                torch.testing.assert_close(mixed.x, share * whole.x + (1 - share) * before)
            else:
                own = (mixed.x == whole.x).all(1)
                assert (own | (mixed.x == before).all(1)).all()
                assert own.float().mean() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_of_a_beta_distribution(alpha):
    drawn = torch.tensor([mix.beta(random.key(0, "test", n), alpha) for n in range(800)])
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.mean() == pytest.approx(0.5, abs=0.05)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.2)


def test_as_many_are_erased_as_asked_for_and_no_more_than_a_third_of_each():
    x = torch.ones(2000, 1, 20, 20)
    changes = Augmentation(erasing=0.3).sample_views(3, torch.arange(2000))
    erased = (Augmentation(erasing=0.3).erase(x, changes) == 0).float().mean((1, 2, 3))
    assert (erased > 0).float().mean() == pytest.approx(0.3, abs=0.03)
    some = erased[erased > 0]
    assert some.min() >= 0.01
    assert 0.3 <= some.max() <= 0.37
    assert some.mean() == pytest.approx((0.02 + 0.33) / 2, abs=0.02)


def test_fixed_views_hold_all_that_is_of_one_picture_and_no_mixtures(pictures, feed):
    fixed = Augmentation(policy="rand-augment", erasing=0.5, fixed=3)
    made = feed(pictures, fixed)
    assert fixed.views == 3
    index, view = torch.arange(6), torch.arange(6) % 3
    first: Batch = made.view(index, view)
    seen = {}
    for epoch in range(1, 4):
        for batch in made.train(epoch):
            for x, i, m in zip(batch.x, batch.index.tolist(), batch.view.tolist(), strict=True):
                assert torch.equal(seen.setdefault((i, m), x), x)
    assert all(torch.equal(seen.get((i, i % 3), first.x[i]), first.x[i]) for i in index.tolist())
    with pytest.raises(Incompatible, match="a mixture is of two views that never meet again"):
        feed(pictures, Augmentation(mixup=1.0, fixed=3))


def test_vectors_have_no_colours(feed, pictures):
    x = torch.randn(83, 1, 1, 6)
    vectors = replace(pictures, x_train=x, x_test=x[:10], mean=(0.0,), std=(1.0,))
    for augment in (Augmentation(policy="rand-augment"), Augmentation(cutmix=1.0)):
        with pytest.raises(Incompatible, match="is for pictures, and these are vectors"):
            feed(vectors, augment)
    assert next(feed(vectors, Augmentation(mixup=1.0)).train(1)).mixed


@pytest.mark.parametrize("name", ["erasing", "resized crop", "rand-augment"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_teacher_may_see_the_picture_as_it_is_or_another_view(
    name, streamed, pictures, folder, feed
):
    source = load("image-folder", options=Options(path=str(folder), size=8), root=folder)
    made = feed(source if streamed else pictures, ALL[name])
    fixed, other = (Sees(made.info.pixels, view) for view in ("fixed", "independent"))
    plain = {
        index: x
        for batch in feed(source if streamed else pictures).train(1)
        for index, x in zip(batch.index.tolist(), batch.x, strict=True)
    }
    batches = list(made.showing([fixed, other]).train(1))
    assert same(batches, list(made.train(1)))  # what the student sees is left alone
    for batch in batches:
        for index, x in zip(batch.index.tolist(), batch.others[fixed], strict=True):
            assert torch.equal(x, plain[index])
        assert not torch.equal(batch.others[other], batch.x)
    # a function of the view: what is stored of it stays right
    first = batches[0]
    again = made.showing([other]).view(first.index, first.view)
    assert torch.equal(again.others[other], first.others[other])


@pytest.mark.parametrize("name", ["both", "resized crop"])
def test_what_nobody_asks_for_is_not_made(name, pictures, feed, monkeypatch):
    made = feed(pictures, ALL[name])
    large = Sees(replace(made.info.pixels, input_shape=(3, 12, 18), resize=(12, 18)))
    sizes = []
    for place in ("fit", "changed"):
        plain = getattr(decode, place)

        def noted(*given, plain=plain):
            (how,) = (one for one in given if isinstance(one, Preprocessing))
            sizes.append(how.size)
            return plain(*given)

        monkeypatch.setattr(decode, place, noted)
    batches = list(made.showing([large]).train(1))
    assert (12, 18) not in sizes
    parts = [batch.each(lambda rows: rows[1:]) for batch in batches]
    assert (12, 18) not in sizes
    assert parts[0].others[large].shape == (7, 3, 12, 18)
    assert torch.equal(parts[0].others[large], batches[0].others[large][1:])
    assert sizes.count((12, 18)) == (8 if name == "resized crop" else 1)  # each once


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_make_what_is_asked_for_and_the_rest_waits(workers, folder, feed, monkeypatch):
    monkeypatch.setattr("kdcli.data.streamed._UNASKED", 1)
    source = load("image-folder", options=Options(path=str(folder), size=8), root=folder)
    crop = Augmentation(crop=1, flip=True, erasing=0.5)
    made = feed(source, crop, workers=workers, batch_size=2)
    large = Sees(replace(made.info.pixels, input_shape=(3, 16, 16), resize=(16, 16)))
    eager = [batch.others[large] for batch in made.showing([large]).train(1)]
    told = []
    items = streamed._items
    monkeypatch.setattr(
        streamed, "_items", lambda *given: told.append(tuple(given[2])) or items(*given)
    )
    lazy = made.showing([large])
    late = list(lazy.train(1))
    assert told[0] == (0, 1)
    assert told[-1] == (0,)
    assert all(torch.equal(a, b.others[large]) for a, b in zip(eager, late, strict=True))
    list(lazy.train(2))
    assert (0, 1) in told[len(late) + 1 :]  # somebody asked again
