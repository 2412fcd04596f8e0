"""Class maps: what is understood of them, what is refused, and what a merged network answers."""

from __future__ import annotations

import re

import pytest
import torch

from kdcli.core.class_map import groups_of, in_words
from kdcli.core.merged_classes import MergedClasses
from kdcli.engine.teachers.inference import fold, lower
from kdcli.errors import Incompatible, UsageError
from kdcli.jobs.build.class_maps import mapped
from kdcli.jobs.build.networks import build_network

OWN = ("dog", "cat")
THEIRS = (
    "Airedale, Airedale terrier",
    "crane",
    "tabby",
    "dog sled",
    "crane",
    "cat",
    "Silky_terrier",
)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"dog": [0], "cat": [2, 5]}, ((0,), (2, 5))),
        ({"0": [0], "1": [2]}, ((0,), (2,))),
        ({"dog": ["airedale terrier", 6], "cat": ["tabby"]}, ((0, 6), (2,))),
        ({"dog": ["silky terrier"]}, ((6,), (5,))),  # cat is the teacher's cat
        ({"dog": [0, "Airedale"], "cat": ["cat"]}, ((0,), (5,))),
    ],
)
def test_classes_are_found_by_name_and_number(given, found):
    assert groups_of(given, OWN, THEIRS) == found


@pytest.mark.parametrize(
    ("given", "said", "hint"),
    [
        ({"dog": ["airdale"]}, "has no class 'airdale'", "'Airedale, Airedale terrier'"),
        ({"dog": ["crane"]}, "several classes are called 'crane'", "1 and 4"),
        ({"dog": ["CRANE"]}, "several of the teacher's classes are called", r"1 \(crane\)"),
        ({"dog": [7]}, "there is no class 7", "0 to 6"),
        ({"dgo": [0]}, "no class is called 'dgo'", "'dog'"),
        ({"dog": [], "cat": [2]}, "'dog' has no class of the teacher", "nearest"),
        ({"dog": [2], "cat": [2]}, "'tabby' is in 'dog' and in 'cat'", "one of them"),
        ({"dog": [0], "0": [1]}, "is there twice", "once"),
        ({"cat": [2]}, "says nothing of the data's class 'dog'", "'dog sled'"),
    ],
)
def test_what_is_none_or_several_is_one_sentence(given, said, hint):
    with pytest.raises(UsageError, match=said) as caught:
        groups_of(given, OWN, THEIRS)
    assert re.search(hint, caught.value.hint)


def test_what_was_understood_is_said_by_class():
    assert list(in_words(((0, 6), (5,)), OWN, THEIRS)) == [
        "dog <- 2 of the teacher's classes: Airedale, Airedale terrier, Silky_terrier",
        "cat <- cat",
        "of the teacher's 7 classes 4 are left out",
    ]
    many = tuple(map(str, range(40)))
    lines = list(in_words(tuple((number,) for number in range(40)), many, many))
    assert (len(lines), lines[-1]) == (13, "... and 28 more classes of the data")


def test_imagenet_s_classes_are_known_by_their_synonyms_and_numbers():
    pytest.importorskip("timm", reason="timm is not installed: pip install 'kdcli[timm]'")
    from torchvision.models import ResNet18_Weights

    class Info:
        class_names = ("dog", "crane")

    names = ResNet18_Weights.DEFAULT.meta["categories"]
    network = build_network("mlp", num_classes=1000, input_shape=(1, 2, 2), options={"hidden": [4]})
    given = {"dog": ["n02096051", "Yorkshire terrier", 193], "crane": [134, 517]}
    found = mapped(network, given, names, Info)
    assert found.groups == ((191, 187, 193), (134, 517))


# ---- the network ---------------------------------------------------------------------------------

GROUPS = ((1, 3), (0,), (2, 5, 4))


def network():
    return build_network("resnet8", num_classes=7, input_shape=(3, 8, 8)).eval()


def test_probabilities_of_merged_classes_are_added_and_the_rest_renormalised():
    own = network()
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    q = own(x).logits.double().softmax(1)
    added = torch.stack([q[:, list(group)].sum(1) for group in GROUPS], dim=1)
    expected = added / added.sum(1, keepdim=True)
    answer = MergedClasses(own, GROUPS)(x, ("pooled",))
    torch.testing.assert_close(answer.logits.double().softmax(1), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(answer.taps["pooled"], own(x, ("pooled",)).taps["pooled"])


def test_classes_of_one_member_each_keep_their_logits_bit_for_bit():
    own, x = network(), torch.ones(2, 3, 8, 8)
    merged = MergedClasses(own, ((4,), (0,)))
    assert torch.equal(merged(x).logits, own(x).logits[:, [4, 0]])


def test_an_inference_copy_is_folded_and_lowered_as_without_a_map():
    own, x = network(), torch.randn(2, 3, 8, 8)
    merged = MergedClasses(own, GROUPS)
    copied = fold(merged)
    assert copied.folded == fold(own).folded > 0
    torch.testing.assert_close(copied.network(x).logits, merged(x).logits, rtol=1e-4, atol=1e-4)
    lower(copied.network, torch.bfloat16)
    assert copied.network.network.head.weight.dtype == torch.float32


def test_it_has_no_last_layer():
    with pytest.raises(Incompatible, match="tells its own classes apart"):
        _ = MergedClasses(network(), GROUPS).head
