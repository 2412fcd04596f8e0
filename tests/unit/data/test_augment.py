from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.transforms.v2.functional import crop, horizontal_flip, pad

from kdcli.core import random
from kdcli.data.augment import RULE, Augmentation
from kdcli.data.decode import finish
from kdcli.errors import Incompatible
from kdcli.results.preprocessing import Preprocessing


def picture(*shape: int) -> torch.Tensor:
    return (torch.arange(torch.Size(shape).numel()) * 37 % 256).to(torch.uint8).view(shape)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_a_view_is_what_torchvision_does_with_its_corner_and_flip(padding: str) -> None:
    augment = Augmentation(crop=2, padding=padding, flip=True)
    image = picture(3, 6, 9)
    views = torch.arange(augment.views)
    padded = pad(image, [2], padding_mode="constant" if padding == "zeros" else "reflect")
    for view, made in zip(
        views.tolist(), augment.apply(image.expand(len(views), -1, -1, -1), views), strict=True
    ):
        dy, dx, flip = view // 10, view // 2 % 5, view % 2
        expected = crop(padded, dy, dx, 6, 9)
        assert torch.equal(made, horizontal_flip(expected) if flip else expected), (view, padding)


def test_the_middle_view_is_the_image_itself() -> None:
    images = picture(2, 1, 5, 5)
    augment = Augmentation(crop=4, flip=True)
    middle = torch.full((2,), (4 * 9 + 4) * 2)
    assert torch.equal(augment.apply(images, middle), images)


def test_all_162_views_are_drawn_about_equally_often() -> None:
    augment = Augmentation(crop=4, flip=True)
    assert augment.views == 162
    counts = torch.bincount(
        augment.sample_views(random.key(0, "view", 1), torch.arange(162 * 200)), minlength=162
    )
    assert len(counts) == 162
    assert counts.min() > 130
    assert counts.max() < 280


@pytest.mark.parametrize(
    ("augment", "drawn"),
    [(Augmentation(), 1), (Augmentation(crop=1), 9), (Augmentation(flip=True), 2)],
)
def test_only_what_is_switched_on_varies(augment: Augmentation, drawn: int) -> None:
    views = augment.sample_views(random.key(0, "view", 1), torch.arange(500))
    assert len(views.unique()) == drawn == augment.views
    assert views.max() < augment.views
    assert (
        len(
            augment.apply(picture(1, 1, 6, 9).expand(drawn, -1, -1, -1), views.unique()).unique(
                dim=0
            )
        )
        == drawn
    )


def test_a_draw_depends_on_the_sample_not_on_its_company() -> None:
    augment, stream = Augmentation(crop=4, flip=True), random.key(7, "view", 3)
    whole = augment.sample_views(stream, torch.arange(50))
    assert torch.equal(augment.sample_views(stream, torch.tensor([41, 3])), whole[[41, 3]])


def test_floating_point_inputs_are_cropped_too() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert torch.equal(
        Augmentation(crop=1, padding="reflect").apply(x, torch.tensor([0]))[0, 0, 0],
        torch.tensor([5.0, 4.0, 5.0, 6.0]),
    )


def test_a_reflection_must_fit_into_the_image() -> None:
    with pytest.raises(Incompatible, match="8 pixels") as caught:
        Augmentation(crop=8, padding="reflect").check((1, 8, 8))
    assert caught.value.hint is not None
    assert "7" in caught.value.hint
    Augmentation(crop=8).check((1, 8, 8))


class TestResizedCrop:
    augment = Augmentation(resized_crop=True, flip=True, scale=(0.2, 0.8), ratio=(0.5, 2.0))

    def boxes(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        views = self.augment.sample_views(random.key(0, "view", 1), torch.arange(400))
        return [self.augment.box(view, height, width) for view in views.tolist()]

    def test_boxes_lie_in_the_picture_and_keep_to_area_and_ratio(self) -> None:
        for top, left, height, width in self.boxes(60, 80):
            assert 0 <= top <= 60 - height
            assert 0 <= left <= 80 - width
            assert 0.18 <= height * width / 4800 <= 0.82
            assert 0.47 <= width / height <= 2.1

    def test_boxes_reach_every_side(self) -> None:
        tops, lefts, heights, widths = zip(*self.boxes(60, 80), strict=True)
        assert min(tops) == 0
        assert min(lefts) == 0
        assert max(top + height for top, height in zip(tops, heights, strict=True)) == 60
        assert max(left + width for left, width in zip(lefts, widths, strict=True)) == 80

    def test_a_picture_too_long_for_any_box_gives_its_middle(self) -> None:
        assert self.boxes(4, 400)[0] == (0, 196, 4, 8)
        assert self.boxes(400, 4)[0] == (196, 0, 8, 4)

    def cut(self, image: torch.Tensor, view: int, size: int) -> torch.Tensor:
        how = Preprocessing((3, size, size), size, (0.0,), (1.0,))
        return finish(how, self.augment, image, view)

    def test_a_view_fixes_the_pixels(self) -> None:
        image = picture(3, 20, 30)
        views = self.augment.sample_views(random.key(0, "view", 1), torch.arange(40)).tolist()
        first = [self.cut(image, view, 8) for view in views]
        assert all(
            torch.equal(self.cut(image, view, 8), made)
            for view, made in zip(views, first, strict=True)
        )
        assert {made.shape for made in first} == {torch.Size([3, 8, 8])}
        assert len({made.numpy().tobytes() for made in first}) == 40

    def test_half_of_the_views_are_mirrored(self) -> None:
        ramp = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64)
        views = self.augment.sample_views(random.key(0, "view", 1), torch.arange(400)).tolist()
        mirrored = sum(
            int(cut[0, 0, 0] > cut[0, 0, -1]) for cut in (self.cut(ramp, view, 8) for view in views)
        )
        assert 160 < mirrored < 240


class TestFixedViews:
    crop = Augmentation(crop=4, flip=True, fixed=8)
    cut = Augmentation(resized_crop=True, flip=True, fixed=8)

    def changes(self, augment: Augmentation, samples: int) -> torch.Tensor:
        """[samples, views] int64."""
        assert augment.views is not None
        index, views = torch.arange(samples)[:, None], torch.arange(augment.views)[None]
        return augment.change(
            *(part.flatten() for part in torch.broadcast_tensors(index, views))
        ).view(samples, -1)

    @pytest.mark.parametrize("augment", [crop, cut])
    def test_views_of_an_image_differ_and_so_do_those_of_two_images(
        self, augment: Augmentation
    ) -> None:
        changes = self.changes(augment, 500)
        assert all(len(row.unique()) == 8 for row in changes)
        assert len(changes.unique(dim=0)) == 500

    def test_as_many_as_there_are_are_all_of_them(self) -> None:
        everything = torch.arange(162)
        for row in self.changes(replace(self.crop, fixed=162), 20):
            assert torch.equal(row.sort().values, everything)

    @pytest.mark.parametrize("count", [1, 2, 8])
    def test_each_view_is_an_equal_draw_from_all_changes(self, count: int) -> None:
        """No change is more frequent among first, second, ... views: a mean over 10 000 samples
        lies within 4 deviations of its own.
        """
        for column in self.changes(replace(self.crop, fixed=count), 162 * 100).T:
            counts = torch.bincount(column, minlength=162)
            assert 60 < counts.min() <= counts.max() < 145  # 100 expected, deviation 10
            assert abs((column % 2).float().mean() - 0.5) < 0.016

    def test_two_views_of_an_image_say_nothing_of_each_other(self) -> None:
        first, second = self.changes(replace(self.crop, fixed=2), 8000).T
        assert abs((first % 2 == second % 2).float().mean() - 80 / 161) < 0.025
        assert len(((second - first) % 162).unique()) == 161

    def test_more_views_keep_the_first_ones(self) -> None:
        for augment in (self.crop, self.cut):
            assert torch.equal(
                self.changes(replace(augment, fixed=3), 50), self.changes(augment, 50)[:, :3]
            )

    def test_which_changes_they_are_stays_so(self) -> None:
        """Stored answers are looked up by these numbers: if they change, RULE must."""
        assert self.changes(self.crop, 2)[:, :4].tolist() == [[96, 56, 59, 33], [8, 31, 153, 50]]
        assert self.changes(self.cut, 2)[:, :2].tolist() == [
            [4721324039216305187, 152462841527622524],
            [8178745988156626665, 5768533723739437500],
        ]
        assert RULE == 2

    @pytest.mark.parametrize("augment", [crop, cut])
    def test_the_seed_chooses_among_them_evenly(self, augment: Augmentation) -> None:
        views = augment.sample_views(random.key(3, "view", 1), torch.arange(4000))
        counts = torch.bincount(views, minlength=8)
        assert len(counts) == 8
        assert 400 < counts.min() <= counts.max() < 600

    def test_more_than_there_are_cannot_be_shown(self) -> None:
        with pytest.raises(
            Incompatible, match=r"data\.views is 163, more than the 162 that data.augment makes"
        ) as caught:
            replace(self.crop, fixed=163).check((3, 32, 32))
        assert (
            caught.value.hint
            == "set data.views to 162 at most, or leave it out: then all of them come up"
        )
        with pytest.raises(Incompatible, match="more than the 1 that"):
            Augmentation(fixed=2).check((3, 32, 32))
        Augmentation(fixed=1).check((3, 32, 32))
        replace(self.cut, fixed=65536).check((3, 32, 32))
