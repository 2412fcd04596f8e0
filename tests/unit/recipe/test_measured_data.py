"""The data to measure on are the header's, and over them what was asked for; each mistake is told
at its place.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcli.errors import BadCheckpoint, RecipeInvalid
from kdcli.recipe.measured_data import asked_for, label_of, section_asked, section_of
from kdcli.results.weights_header import CheckpointHeader

OWN = {
    "name": "npz",
    "path": "own.npz",
    "val_fraction": 0.1,
    "train_limit": 50,
    "exclude_classes": [1],
    "per_class": 5,
    "eval_batch_size": 7,
}


def header(data) -> CheckpointHeader:
    return CheckpointHeader(
        "mlp", {}, 2, (1, 8, 8), ("a", "b"), (0.5,), (0.5,), data, "fingerprint", 1
    )


def section(*sets, data=OWN, train=True, data_name=None, root=None):
    asked = asked_for(data_name, sets=sets, root=root)
    found = section_of(Path("m.safetensors"), header(data), asked, train=train)
    return found, label_of(found, asked)


def told(call) -> str:
    with pytest.raises(RecipeInvalid) as error:
        call()
    return "\n".join(f"{d.key}: {d.problem} ({d.where})" for d in error.value.diagnostics)


def test_without_a_word_it_is_what_the_checkpoint_was_trained_on_and_whole():
    found, label = section()
    assert (found.name, found.path, found.val_fraction) == ("npz", "own.npz", 0.1)
    assert (found.exclude_classes, found.per_class, found.eval_batch_size) == ((), None, 7)
    assert label == "npz own.npz"


def test_the_test_split_does_not_depend_on_how_much_of_the_training_set_there_is():
    assert section(train=True)[0].train_limit == 50
    found, _ = section(train=False)
    assert (found.train_limit, found.val_fraction) == (None, 0.0)


def test_moved_data_keep_everything_but_their_path():
    found, label = section("data.path=new/own.npz")
    assert (found.path, found.eval_batch_size) == ("new/own.npz", 7)
    assert label == "npz new/own.npz"


def test_another_dataset_takes_nothing_from_the_header():
    found, label = section("data.path=folder", "data.size=32", data=OWN, data_name="image-folder")
    assert (found.name, found.val_fraction, found.eval_batch_size) == ("image-folder", 0.0, 512)
    assert label == "image-folder folder (size = 32)"


@pytest.mark.parametrize(
    ("sets", "named", "expected"),
    [
        ([], {"data_name": "image-folder"}, "data.path: missing (--data image-folder)"),
        (["data.pth=x"], {}, "data.pth: unknown option of npz (--set data.pth=x)"),
        (["data.path=3"], {}, "data.path: must be text in quotes, got 3 (--set data.path=3)"),
        (["train.epochs=3"], {}, "train: is not about data (--set train.epochs=3)"),
        (["data.name=3"], {}, "data.name: must be text in quotes, got 3 (--set data.name=3)"),
        (["data=3"], {}, "data: is a section (--set data=3)"),
        (["data.per_class=3"], {}, "data.per_class: takes images away from training: whatever"),
        (["data.name=digits"], {"data_name": "npz"}, "data.name: --data npz and --set data.name="),
        ([], {"root": Path("D")}, "data.root: npz is not read from a folder of datasets"),
        ([], {"data_name": "digits", "root": Path("D")}, "data.root: digits is not read from"),
        ([], {"data_name": "nowhere.py:f"}, "data.name: "),
    ],
)
def test_what_cannot_be_measured_so_is_refused_at_its_place(sets, named, expected):
    assert expected in told(lambda: section(*sets, **named))


def test_values_from_python_are_of_the_dataset_that_is_named_beside_them():
    asked = asked_for("image-folder", {"data.path": "photos", "data.test_fraction": 0.2})
    found = section_asked(asked)
    assert (found.name, found.path, found.test_fraction) == ("image-folder", "photos", 0.2)


def test_a_folder_of_datasets_is_taken_where_one_is_read():
    found, label = section(data_name="mnist", root=Path("D"))
    assert (found.root, label) == ("D", 'mnist (root = "D")')


@pytest.mark.parametrize("data", [{"name": "npz"}, {"name": "npz", "path": []}])
def test_a_header_whose_data_cannot_be_had_is_refused(data):
    with pytest.raises(BadCheckpoint, match="the data that its header names cannot be had"):
        section(data=data)
