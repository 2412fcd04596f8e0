"""Texts with classes: read as tokens, and whatever is wrong with them told in a sentence."""

from __future__ import annotations

import json

import pytest
import torch

from kdcli.data.datasets.labelled_text import Options, load
from kdcli.data.tokens import encode, make_vocabulary
from kdcli.errors import BadData, KdError, NotFound, UsageError
from kdcli.results.vocabulary import Vocabulary

ROWS = [{"text": f"{word} thing number {n}", "label": word} for n in range(10) for word in ("good", "bad")]  # fmt: skip


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(path, **options):
    return load("labelled-text", options=Options(path=str(path), **options), root=path)


def test_a_file_is_read_and_a_share_drawn_by_class(tmp_path):
    (tmp_path / "all.jsonl").write_text(lines(ROWS))
    found = read(tmp_path / "all.jsonl", length=6)
    assert found.class_names == ("bad", "good")
    assert found.x_train.shape == (16, 1, 1, 6)
    assert found.x_train.dtype == torch.int64
    assert torch.bincount(found.y_test).tolist() == [2, 2]
    # filled up behind the words, which were four
    assert (found.x_train[:, 0, 0, :4] > 0).all()
    assert (found.x_train[:, 0, 0, 4:] == 0).all()
    assert "vocabulary of" in found.notes[0]
    other = read(tmp_path / "all.jsonl", length=6, test_seed=1)
    assert torch.bincount(other.y_test).tolist() == [2, 2]
    assert not torch.equal(other.x_test, found.x_test)


def test_tables_and_parts(tmp_path):
    (tmp_path / "train.csv").write_text('review,class\n"one, two",0\nthree,1\nfour,\n')
    (tmp_path / "valid.csv").write_text("review,class\nfive,1\n")
    (tmp_path / "test.tsv").write_text("review\tclass\nsix\t0\n")
    found = read(tmp_path, length=4)
    assert found.y_train.tolist() == [0, 1, -1, 1]  # an empty label is none; the last is held out
    assert found.held == 1
    assert found.y_test.tolist() == [0]
    assert found.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "all.jsonl has no text"),
        ('{"text": " ", "label": 1}\n', "line 1: the text is empty"),
        ('{"text": "a"}\n', "line 1: there is no 'label' or 'class'"),
        ('{"text": "a", "label": 1.5}\n', "line 1: the label is no text or whole number"),
        ("[1]\n", "line 1 is no JSON object"),
        ('{"text": "a", "label": 1}\n', "the training text has the class '1' alone"),
        ('{"text": "a", "label": null}\n', "no training text of"),
        (b'{"text": "\xff"}\n', "is not UTF-8: byte 10 (counted from 0) is 0xff"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_told(tmp_path, content, told):
    file = tmp_path / "all.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(KdError) as caught:
        read(file, test_fraction=0.5)
    assert told in caught.value.message


def test_a_label_that_training_does_not_know(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(ROWS))
    (tmp_path / "test.jsonl").write_text(lines([{"text": "a", "label": "fine"}]))
    with pytest.raises(BadData, match=r"test.jsonl, line 1: 'fine' is not among the classes"):
        read(tmp_path)
    with pytest.raises(UsageError, match="test_fraction"):
        read(tmp_path, test_fraction=0.2)
    with pytest.raises(UsageError, match=r"data\.test_seed .* has test\.jsonl"):
        read(tmp_path, test_seed=1)
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(NotFound, match="holds no test file"):
        read(tmp_path)


def test_a_large_file_is_refused_by_its_bound(tmp_path):
    (tmp_path / "all.jsonl").write_text(lines(ROWS))
    with pytest.raises(BadData, match=r"more than data.max_gb"):
        read(tmp_path / "all.jsonl", max_gb=1e-9)


def test_the_embedded_topics_know_train_from_test():
    found = load("python-topics", options=Options(length=32), root=None)
    assert len(found.class_names) == 6
    assert len(found.y_test) > 100
    train = {tuple(row) for row in found.x_train.flatten(1).tolist()}
    assert sum(tuple(row) in train for row in found.x_test.flatten(1).tolist()) <= 3


def test_pieces_make_words_up_and_are_the_same_each_time():
    pytest.importorskip("tokenizers")
    texts = ["the reader reads readings", "a reading of readers"] * 4
    first, again = (
        make_vocabulary(texts, "pieces", most=40, lower=True, length=12) for _ in range(2)
    )
    assert first == again
    assert first.tokens[:2] == ("<pad>", "<unk>")
    tokens, counts = encode(first, ["Reading readers", "", "☃"])
    whole = "".join(first.tokens[number] for number in tokens[0].tolist() if number)
    assert whole.replace("##", "") == "readingreaders"
    assert counts.tolist()[1:] == [0, 1]
    assert tokens[2, 0] == 1


def test_a_vocabulary_says_what_tells_it_apart():
    own = Vocabulary(("<pad>", "<unk>", "a"), "words", lower=True, length=4)
    assert own.differs(own) == ""
    other = Vocabulary(("<pad>", "<unk>", "b"), "words", lower=True, length=4)
    assert own.differs(other) == "token 2 is 'b' to it and 'a' here"
    longer = Vocabulary(("<pad>", "<unk>", "a"), "words", lower=True, length=5)
    assert own.differs(longer) == "data.length is 5 to it and 4 here"
    with pytest.raises(ValueError, match="tokens begin with"):
        Vocabulary(("a", "b"), "words", lower=True, length=4)
