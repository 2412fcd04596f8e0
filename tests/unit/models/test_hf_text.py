"""Networks of transformers for texts inside kd: the same function as theirs, on the same tokens."""

from __future__ import annotations

import pytest
import torch

from kdcli.core.tokenizer import numbers_of, read_tokenizer
from kdcli.data.tokens import encode
from kdcli.errors import BadData, Incompatible, NotFound
from kdcli.jobs.build.networks import build_network
from kdcli.results.vocabulary import of_tokenizer
from tests.unit.models.tiny_hf_text import CAUSAL, SEQUENCE, save, write_tokenizer

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'kdcli[hf]'"
)

WORDS = ("the", "cat", "sees", "a", "bird", "<pad>")


def build(folder, classes, length=1, **options):
    shape = (1, 1, length)
    return build_network(
        f"hf/{folder}", num_classes=classes, input_shape=shape, options=options
    ).eval()


@pytest.mark.parametrize("family", CAUSAL)
def test_a_language_model_is_their_own_function(tmp_path, family):
    own = save(tmp_path, family, WORDS)
    network = build(tmp_path, 11, weights="DEFAULT")
    x = torch.arange(20).view(2, 1, 1, 10) % 11
    with torch.no_grad():
        theirs = own(input_ids=x.flatten(1)).logits
        torch.testing.assert_close(network(x).logits, theirs.flatten(0, 1))
        # a text of more tokens than it has places is read in blocks
        long = torch.arange(60).view(1, 1, 1, 60) % 11
        blocks = [own(input_ids=part.flatten(1)).logits for part in long.split(24, dim=3)]
        torch.testing.assert_close(network(long).logits, torch.cat(blocks, 1).flatten(0, 1))
        # dividing the weights of its last layer leaves what it reads as it is
        for parameter in network.head.parameters():
            parameter.div_(2)
        network.logits_divided(2.0)
        torch.testing.assert_close(network(x).logits, theirs.flatten(0, 1) / 2)


@pytest.mark.parametrize("family", SEQUENCE)
def test_padding_counts_for_nothing(tmp_path, family):
    own = save(tmp_path, family, WORDS, classes=3)
    vocabulary = of_tokenizer(*_read(tmp_path), 12)
    network = build(tmp_path, 3, 12, weights="DEFAULT")
    tokens, counts = encode(vocabulary, ["the cat sees a bird", "a cat"])
    assert counts.tolist() == [7, 4]
    with torch.no_grad():
        logits = network(tokens[:, None, None]).logits
        alone = [own(input_ids=row[row > 0][None] - 2).logits for row in tokens]
        torch.testing.assert_close(logits, torch.cat(alone))
        torch.testing.assert_close(network(tokens[1:, None, None, :4]).logits, logits[1:])


def _read(folder):
    found = read_tokenizer(folder)
    return found.words, found.content


def test_a_text_that_is_cut_keeps_what_stands_around_it(tmp_path):
    write_tokenizer(tmp_path, WORDS, around=True)
    vocabulary = of_tokenizer(*_read(tmp_path), 4)
    assert vocabulary.tokens[2] == "[PAD]"
    assert vocabulary.tokens[-1] == "<pad> (its own)"
    tokens, counts = encode(vocabulary, ["the cat sees a bird", "cat", ""])
    assert tokens.tolist() == [[4, 7, 8, 5], [4, 8, 5, 0], [4, 5, 0, 0]]
    assert counts.tolist() == [7, 3, 0]


def test_lines_end_as_the_tokenizer_has_it(tmp_path):
    write_tokenizer(tmp_path, WORDS)
    assert numbers_of(read_tokenizer(tmp_path).content, "the cat\na dog\n") == [5, 6, 4, 8, 1, 4]


def test_a_body_of_another_kind_gets_a_new_head(tmp_path):
    config = transformers.BertConfig(**SEQUENCE["bert"], vocab_size=11)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    network = build(tmp_path, 4, 12, weights="DEFAULT")
    assert network.new_head == "something else than classes"
    assert network.head.out_features == 4


def test_what_does_not_fit_is_told(tmp_path):
    save(tmp_path / "gpt", "gpt2", WORDS)
    save(tmp_path / "bert", "bert", WORDS, classes=2)
    with pytest.raises(Incompatible, match="reads 24 tokens at most, and a text has up to 30"):
        build(tmp_path / "bert", 2, 30)
    with pytest.raises(Incompatible, match="depends on those after it"):
        build(tmp_path / "bert", 11)
    with pytest.raises(Incompatible, match="11 tokens, and the text one of 12"):
        build(tmp_path / "gpt", 12, weights="DEFAULT")
    with pytest.raises(Incompatible, match="one linear layer for the whole text"):
        build(tmp_path / "gpt", 2, 12)
    with pytest.raises(NotFound, match=r"holds no tokenizer\.json"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadData, match="is no tokenizer"):
        read_tokenizer(tmp_path)
