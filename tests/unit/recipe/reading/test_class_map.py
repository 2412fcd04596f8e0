"""Class maps in files: both forms say the same, and what is no map is one sentence."""

from __future__ import annotations

import json

import pytest

from kdcli.errors import KdError, RecipeInvalid
from kdcli.recipe.reading.class_map import read_class_map
from kdcli.recipe.resolve import Flag, resolve
from kdcli.recipe.writing import recipe_hash

MAP = {"dog": ["Airedale, Airedale terrier", 193], "cat": ["tabby"]}
CSV = 'class,teacher\ndog,"Airedale, Airedale terrier"\ndog,193\n\ncat,tabby\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.json", json.dumps(MAP)),
        ("map.json", json.dumps({**MAP, "cat": "tabby"})),
        ("map.csv", CSV),
        ("MAP.CSV", "\ufeff" + CSV.replace("\n", "\r\n")),
        (
            "map.csv",
            'id,teacher, class\n1,"Airedale, Airedale terrier",dog\n2,193,dog\n3,tabby,cat',
        ),
    ],
)
def test_json_and_csv_say_the_same(name, text, tmp_path):
    (tmp_path / name).write_bytes(text.encode())
    assert read_class_map(tmp_path / name) == MAP


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gone.json", None, "gone.json"),
        ("map.txt", "dog", "neither .json nor .csv"),
        ("map.json", "[1, 2]", "no classes by name"),
        ("map.json", "{", "is not JSON"),
        ("map.json", '{"dog": [true]}', "'dog' has something that is no class: True"),
        ("map.json", '{"dog": [-1]}', "no class: -1"),
        ("map.json", '{"dog": {"cat": 1}}', "no class"),
        ("map.json", '{"dog": 1, "dog": 2}', "is not JSON"),
        ("map.csv", "", "no columns class and teacher"),
        ("map.csv", "dog,tabby\n", "no columns class and teacher"),
        ("map.csv", "class,teacher\ndog,Airedale, terrier\n", "map.csv:2 has 3 values"),
        ("map.csv", "class,teacher\ndog,\n", "map.csv:2 leaves a class empty"),
        ("map.csv", 'class,teacher\n"dog\n', "is not CSV"),
        ("map.csv", "class,teacher\nd\x00g,1\n", None),
    ],
)
def test_what_is_no_map_is_one_sentence(name, text, said, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    if said is None:
        read_class_map(tmp_path / name)  # the data have no such class, which is said then
        return
    with pytest.raises(KdError, match=said):
        read_class_map(tmp_path / name)


def solve(value, *more):
    flags = [
        Flag("--teacher-classes", "teacher.classes", value),
        Flag("--data", "data.name", "digits"),
        Flag("--student", "student.name", "cnn-small"),
        *more,
    ]
    return resolve("distill", file="quickstart", flags=flags, environ={}).recipe


def test_a_run_holds_the_map_itself_and_counts_by_it(tmp_path):
    (tmp_path / "map.csv").write_text(CSV)
    from_file, inline = solve(tmp_path / "map.csv"), solve(MAP)
    assert from_file.teacher[0].class_map == {key: tuple(items) for key, items in MAP.items()}
    assert recipe_hash(from_file) == recipe_hash(inline) != recipe_hash(solve({"cat": "tabby"}))


@pytest.mark.parametrize("value", [{"dog": True}, {"dog": [-1]}, {"dog": [[1]]}, 7])
def test_a_value_that_is_no_map_is_refused_where_it_stands(value):
    with pytest.raises(RecipeInvalid) as caught:
        solve(value)
    assert {found.key.partition(".dog")[0] for found in caught.value.diagnostics} == {
        "teacher.classes"
    }
