"""Where in a text a gap is: by frequency, by place, by token."""

from __future__ import annotations

import math

import pytest
import torch

from kdcli.analysis.text_gap import Read, text_gap
from kdcli.core.types import Batch, DataInfo
from kdcli.jobs.measure.reading import OPENING, Reading

NAMES = ("<unk>", "<eos>", "a", "b")


def test_gaps_by_token_frequency_and_place():
    # the teacher is sure of all, the student of nothing where "b" comes next
    targets = torch.tensor([2, 3, 1] * 6)
    v = torch.full((18, 4), -50.0).scatter(1, targets[:, None], 50.0)
    z = torch.where(targets[:, None] == 3, 0.0, v)
    places = torch.arange(18) % 3
    read = Read(places, z[:6], targets[:6], 1), Read(places, v[:6], targets[:6], 1)
    trained_on = torch.tensor([2] * 9 + [1] * 5 + [3])
    found = text_gap("s", z, v, targets, read, trained_on=trained_on, names=NAMES)
    [worst] = found.less_sure
    assert (worst.name, worst.n) == ("b", 6)
    assert worst.gap.value == pytest.approx(math.log(4))
    assert worst.surprise == pytest.approx(math.log(4))
    assert not found.surer
    assert [each.name for each in found.by_place] == [
        "0 before it",
        "1 before it",
        "2 to 3 before it",
    ]
    assert [each.gap.value for each in found.by_place] == pytest.approx([0, math.log(4), 0])
    [common] = found.by_frequency
    assert (common.name, common.n) == ("rank 1 to 10", 18)
    assert [each.text for each in found.opening] == ["a", "b", "<eos>"] * 2
    assert [each.ends for each in found.opening] == [False, False, True] * 2
    assert found.opening[1].gap == pytest.approx(math.log(4), abs=1e-4)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("streams", [1, 2])
def test_lines_go_on_from_window_to_window(every, streams):
    text = torch.tensor([2, 1, 2, 3, 2, 1, 3, 2, 2, 2, 1, 2] * 2).view(streams, -1)
    expected = torch.tensor([0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4, 0] * 2).view(streams, -1)
    if streams == 1:
        expected[0, 12:] = torch.tensor([1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 4, 0])
    info = DataInfo("t", 4, 9, (1, 1, 1), NAMES, (0.0,), (1.0,), "", torch.zeros(9).long())
    reading, rows = Reading(info, every), torch.zeros(0).long()
    parts = list(zip(text.split(5, dim=1), expected.split(5, dim=1), strict=True))
    batches = [
        Batch(y[:, None, None], y.flatten(), y.flatten(), y.flatten(), window=number)
        for number, (y, _) in enumerate(parts)
    ]
    for batch in reading.over(batches):
        reading.seen(torch.zeros(len(batch.y), 4), batch.y)
    wanted = torch.cat([rows, *(places.flatten() for _, places in parts)])
    assert torch.equal(reading.read.places, wanted[::every])
    assert torch.equal(reading.read.targets, text[0])  # the first part's, in order
    assert len(reading.read.targets) <= OPENING
