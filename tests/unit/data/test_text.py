"""Text: what is a token, how parts of it are read side by side, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from kdcli.data.datasets import text as family
from kdcli.data.text import Text, TextFeed
from kdcli.errors import BadData, NotFound, UsageError


def read(path: Path | None, name: str = "text", **options) -> Text:
    given = {"path": str(path)} if path else {}
    return family.load(name, options=family.Options(**given, **options), root=Path())


def feed(tokens: int = 101, **changes) -> TextFeed:
    text = torch.arange(tokens) % 7
    source = {"window": 8, "random_windows": False, **changes.pop("source", {})}
    settings = {
        "name": "text", "batch_size": 4, "eval_batch_size": 6, "val_fraction": 0.0, "seed": 3, "device": "cpu",
    }  # fmt: skip
    made = Text(text, text[:0], text[:30], tuple("abcdefg"), **source)
    return TextFeed(made, **{**settings, **changes})


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return folder


# ---- files ---------------------------------------------------------------------------------------


def test_the_usual_files_are_words_between_spaces_and_a_line_is_a_sentence(tmp_path):
    write(
        tmp_path,
        ptb_train_txt=" the <unk> cat 's n't \n the cat \n",
        ptb_valid_txt=" a dog \n",
        ptb_test_txt=" the dog \n\n",
    )
    found = read(tmp_path, "penn-treebank")
    assert found.words == ("<unk>", "<eos>", "cat", "the", "'s", "n't")
    assert [found.words[number] for number in found.train.tolist()] == [
        "the", "<unk>", "cat", "'s", "n't", "<eos>", "the", "cat", "<eos>",
    ]  # fmt: skip
    assert found.val.tolist() == [0, 0, 1]
    assert found.test.tolist() == [3, 0, 1, 1]  # an empty line has its <eos> too


def test_running_text_is_words_and_marks_and_its_end_is_tested_on(tmp_path):
    (tmp_path / "a.md").write_text("Don't stop, it's 7.\n\n", encoding="utf-8")
    (tmp_path / "b.md").write_text("\ufeff" + "Stop it\n" * 10, encoding="utf-8")
    found = read(tmp_path, lower=True, test_fraction=0.25)
    assert set(found.words) == {"<unk>", "<eos>", "don't", "stop", ",", "it's", "7", ".", "it"}
    assert len(found.test) == round(0.25 * 37)
    assert found.fingerprint != read(tmp_path, test_fraction=0.25).fingerprint


def test_the_vocabulary_is_the_commonest_words_of_the_training_text(tmp_path):
    text = "b b b a a c <unk> <eos> " + "x" * 65 + " \x1b\n"
    found = read(write(tmp_path, train_txt=text, test_txt="a d\n"), vocabulary=4)
    assert found.words == ("<unk>", "<eos>", "b", "a")
    assert found.test.tolist() == [3, 0, 1]
    everything = read(tmp_path)
    assert everything.words == ("<unk>", "<eos>", "b", "a", "c")  # no escape, nothing endless


def test_the_embedded_text_needs_no_file():
    found = read(None, "python-reference", lower=True, vocabulary=200)
    assert len(found.words) == 200
    assert "the" in found.words
    assert len(found.train) > 50_000
    assert "Python 3." in found.notes[0]
    with pytest.raises(UsageError, match=r"read from no data\.path"):
        read(Path("x"), "python-reference")


def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"caf\xe9 noir")
    with pytest.raises(BadData, match=r"bad\.txt is not UTF-8: byte 3 .* is 0xe9"):
        read(bad)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    with pytest.raises(BadData, match=r"text of .*empty\.txt has no token"):
        read(empty)
    with pytest.raises(NotFound, match="no file or folder at"):
        read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="does not say where it is"):
        read(None)
    with pytest.raises(BadData, match=r"GB of text, more than data\.max_gb"):
        read(bad, max_gb=1e-9)
    with pytest.raises(NotFound, match="none of the usual files of penn-treebank"):
        read(tmp_path, "penn-treebank")


def test_parts_belong_together(tmp_path):
    write(tmp_path, train_txt="a b c\n")
    with pytest.raises(NotFound, match=r"train\.txt is in .*, and no test file beside it"):
        read(tmp_path)
    write(tmp_path, test_txt="")
    with pytest.raises(BadData, match=r"the test text of .* has no token"):
        read(tmp_path)
    write(tmp_path, test_txt="a\n")
    with pytest.raises(UsageError, match=r"test\.txt is one"):
        read(tmp_path, test_fraction=0.5)


# ---- windows -------------------------------------------------------------------------------------


def test_parts_are_contiguous_and_targets_are_the_tokens_that_follow():
    found = feed()
    parts = (torch.arange(100) % 7).view(4, 25)
    batches = list(found.train(1))
    assert len(batches) == found.train_batches == 3
    assert [batch.window for batch in batches] == [0, 1, 2]
    assert torch.equal(torch.cat([batch.x[:, 0, 0] for batch in batches], 1), parts[:, :-1])
    for batch in batches:
        length = batch.x.shape[-1]
        assert batch.x.shape == (4, 1, 1, length)
        assert batch.y.shape == (4 * length,)
        assert torch.equal(batch.y, found.info.targets[batch.index])
        assert batch.pace == 1
    assert found.size("train") == found.info.num_train == 96


def test_random_windows_are_a_function_of_seed_and_epoch_and_as_many_in_each():
    found = feed(4001, source={"window": 20, "random_windows": True})
    bounds = [found.bounds(epoch) for epoch in range(1, 30)]
    assert bounds[0] == feed(4001, source={"window": 20, "random_windows": True}).bounds(1)
    assert bounds[0] != bounds[1]
    for each in bounds:
        assert len(each) == found.train_batches + 1
        assert (each[0], each[-1]) == (0, 999)
        assert all(last > first for first, last in pairwise(each))
    batch = next(iter(found.train(2)))
    assert batch.pace == batch.x.shape[-1] / 20
    lengths = torch.tensor(
        [last - first for each in bounds for first, last in pairwise(each)]
    ).double()
    assert float(lengths.std()) == pytest.approx(5, abs=1)


def test_an_epoch_begins_at_any_window_and_ranks_read_their_own_parts():
    found = feed(source={"random_windows": True})
    whole = list(found.train(2))
    assert torch.equal(next(iter(found.train(2, 2))).x, whole[2].x)
    halves = [feed(share=lambda _, part=part: part) for part in (slice(0, 2), slice(2, 4))]
    for one, other, both in zip(
        halves[0].train(1), halves[1].train(1), feed().train(1), strict=True
    ):
        assert torch.equal(torch.cat([one.x, other.x]), both.x)
        assert torch.equal(torch.cat([one.y, other.y]), both.y)
        assert one.whole == other.whole == len(both.y)


def test_a_split_is_read_from_its_beginning():
    found = feed(val_fraction=0.2)
    rows = torch.cat([batch.y for batch in found.split("test")])
    assert torch.equal(rows, torch.arange(1, 30) % 7)
    assert len(rows) == found.size("test")
    assert found.size("val") == 19
    seen = list(found.sample("val", 8))
    assert [batch.window for batch in seen] == [0, 1]
    assert sum(len(batch.y) for batch in seen) == 8
    side = feed(source={"streams": 3})
    assert side.size("test") == 27 == sum(len(batch.y) for batch in side.split("test"))


def test_a_text_too_short_is_refused():
    with pytest.raises(BadData, match="training text has 5 tokens, too few for 4 parts"):
        feed(5)
    with pytest.raises(UsageError, match=r"val_fraction = 0\.001 of 101 tokens holds nothing out"):
        feed(val_fraction=0.001)
