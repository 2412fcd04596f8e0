"""Tables and shards: the batches that the same pictures give as files in folders, bit for bit, and
one sentence on whatever is wrong with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcli import catalog
from kdcli.core.types import Batch, Feed
from kdcli.data.augment import Augmentation
from kdcli.data.shards import expand
from kdcli.data.source import ImageArrays, ImageFolder
from kdcli.errors import BadData, KdError, NotFound, UsageError
from tests.unit.data.datasets.packings import (
    PACKED,
    opened,
    pack_bytes,
    pack_csv,
    pack_saved,
    pack_shards,
    rows_of,
    write_csv,
    write_shard,
)

Make = Callable[..., Feed]
Same = Callable[[list[Batch], list[Batch]], bool]
CUT = Augmentation(resized_crop=True, flip=True)


@pytest.fixture(params=PACKED)
def packed(request: pytest.FixtureRequest, folder: Path) -> ImageFolder:
    return opened(**PACKED[request.param](folder))


def test_pictures_are_those_of_the_same_folder(
    packed: ImageFolder, folder: Path, feed: Make, same: Same
) -> None:
    source = opened("image-folder", folder)
    settings = {"batch_size": 5, "val_fraction": 0.2, "seed": 3}
    files, ours = feed(source, CUT, **settings), feed(packed, CUT, **settings)
    assert same(list(ours.train(2)), list(files.train(2)))
    assert same(list(ours.train(2, start=1)), list(files.train(2))[1:])
    for name in ("val", "test"):
        assert same(list(ours.split(name)), list(files.split(name)))
    assert packed.class_names == ("cat", "dog")
    assert opened_again(packed, folder).fingerprint == packed.fingerprint


def opened_again(packed: ImageFolder, folder: Path) -> ImageFolder:
    """The same once more: now out of what the first reading left in the cache."""
    again = {
        "t.csv": ("csv", folder / "t.csv"),
        "t.txt": ("csv", folder / "t.txt"),
        "t.parquet": ("parquet", folder / "t.parquet"),
        "saved": ("huggingface", folder / "saved"),
        "hub": ("huggingface", folder / "hub"),
        "shards": ("webdataset", folder / "shards"),
    }
    for name in ("shards", "hub", "saved", "t.txt", "t.csv", "t.parquet"):
        if (folder / name).exists():
            return opened(*again[name])
    raise AssertionError(packed)


@pytest.mark.parametrize("kind", ["webdataset", "parquet of bytes"])
def test_neither_workers_nor_ranks_nor_a_stop_change_a_pixel(
    folder: Path, feed: Make, same: Same, kind: str
) -> None:
    source = opened(**PACKED[kind](folder))
    alone = feed(source, CUT, batch_size=4)
    helped = feed(source, CUT, batch_size=4, workers=2)
    assert same(list(helped.train(1)), list(alone.train(1)))
    assert same(list(helped.train(3, start=2)), list(alone.train(3))[2:])
    halves = [
        feed(
            source, CUT, batch_size=4, share=lambda count, rank=rank: slice(2 * rank, 2 * rank + 2)
        )
        for rank in (0, 1)
    ]
    for whole, *parts in zip(alone.train(2), *(half.train(2) for half in halves), strict=True):
        assert torch.equal(torch.cat([part.x for part in parts]), whole.x)


def test_shards_are_mixed_over_all_of_them(folder: Path, feed: Make) -> None:
    source = opened(**pack_shards(folder))
    order = torch.cat([batch.index for batch in feed(source, batch_size=4).train(1)])
    shards = [source.train[at].partition("/")[0] for at in order.tolist()]
    assert len(set(shards[:6])) == 3
    assert sorted(order.tolist()) == list(range(12))


@pytest.mark.parametrize("kind", ["csv", "webdataset"])
def test_pictures_may_be_held_in_memory(folder: Path, kind: str) -> None:
    made = PACKED[kind](folder)
    module = catalog.load(catalog.entry("dataset", made["name"]))
    options = module.Options(path=made["path"], size=8, resident=True)
    source = module.load(made["name"], options=options, root=folder)
    assert isinstance(source, ImageArrays)
    assert len(source.x_train) == 12
    report = module.examine(module.Options(path=made["path"], size=8), made["name"])
    assert (report.data, report.train, report.test) == (made["name"], 12, 8)
    assert [problem.kind for problem in report.problems] == ["size"]  # of 6 pixels


# ---- parts and labels ----------------------------------------------------------------------------


def test_a_part_is_drawn_or_held_out_as_of_folders(folder: Path, feed: Make) -> None:
    rows = [(path, label, "") for path, label, _ in rows_of(folder)]
    table = write_csv(folder, [(path, label, "") for path, label, _ in rows])
    with pytest.raises(BadData, match=r"20 pictures \(line 2, line 3, .*\) of the part ''"):
        opened("csv", table)
    text = "path,label\n" + "\n".join(f"{path},{label}" for path, label, _ in rows)
    table.write_text(text, encoding="utf-8")
    with pytest.raises(NotFound, match=r"no part test or val, and data\.test_fraction is not set"):
        opened("csv", table)
    source = opened("csv", table, test_fraction=0.2)
    assert source.y_test.bincount().tolist() == [2, 2]
    assert "the test part is 0.2 of each class" in " / ".join(source.notes)
    held = [
        (path, label, "Validation" if number % 5 == 0 and part == "train" else part)
        for number, (path, label, part) in enumerate(rows_of(folder))
    ]
    made = feed(opened("csv", write_csv(folder, held)))
    assert [made.size(part) for part in ("train", "val", "test")] == [10, 2, 8]
    with pytest.raises(UsageError, match=r"test_fraction is set, and .*t\.csv has a part test"):
        opened("csv", table.with_name("t.csv"), test_fraction=0.2)


def test_labels_that_are_numbers_count(folder: Path) -> None:
    numbers = {"cat": "10", "dog": "9"}
    rows = [(path, numbers[label], part) for path, label, part in rows_of(folder)]
    source = opened("csv", write_csv(folder, rows))
    assert source.class_names == ("9", "10")
    assert "labels are numbers: 2 classes, 9 to 10" in source.notes
    assert "columns: image from 'path', label from 'label', split from 'split'" in source.notes


@pytest.mark.parametrize(
    ("sample", "label"),
    [
        ({"cls": "1", "json": '{"label": "x"}'}, "1"),
        ({"json": '{"label": 7, "deep": "z"}'}, "7"),
        ({"txt": " a dog \n"}, "a dog"),
        ({"json": "{}"}, None),
        ({}, None),
    ],
)
def test_a_sample_says_its_label_in_several_ways(
    folder: Path, sample: dict[str, str], label: str | None
) -> None:
    from kdcli.data.shards import look_through

    picture = (folder / "train/cat/0.png").read_bytes()
    shard = write_shard(folder / "a.tar", [{"key": "d/1", "png": picture, **sample}])
    assert look_through(shard, None, None).labels == (label,)
    assert look_through(shard, "png", "deep.json").labels[0] == (
        "z" if "7" in str(sample) else None
    )


def test_shards_that_are_tested_on_have_a_pattern(folder: Path) -> None:
    path = Path(pack_shards(folder)["path"])
    for shard in path.iterdir():
        shard.rename(path / shard.name.replace("test", "x"))
    options = {"test": f"{path}/x-*.tar"}
    source = opened("webdataset", f"{path}/train-{{000..002}}.tar", **options)
    assert (len(source.train), len(source.test)) == (12, 8)
    assert opened("webdataset", path, **options).train == source.train
    assert source.notes[0] == "6 shards of 20 pictures"


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{b,c}/{1..2}", ["b/1", "b/2", "c/1", "c/2"]),
        ("{3..1}", ["3", "2", "1"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_are_spelt_out_as_shells_do(pattern: str, texts: list[str]) -> None:
    assert expand(pattern) == texts


@pytest.mark.slow
def test_what_the_packages_themselves_write_is_read(folder: Path, feed: Make, same: Same) -> None:
    datasets = pytest.importorskip("datasets", reason="writes what is read here")
    webdataset = pytest.importorskip("webdataset", reason="writes what is read here")
    kinds = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    parts = {}
    for part in ("train", "test"):
        rows = [row for row in rows_of(folder) if row[2] == part]
        columns = {
            "image": [str(folder / path) for path, _, _ in rows],
            "label": [("cat", "dog").index(label) for _, label, _ in rows],
        }
        parts[part] = datasets.Dataset.from_dict(columns, features=kinds)
        with webdataset.TarWriter(str(folder / f"{part}-0.tar")) as writer:
            for number, (path, label, _) in enumerate(rows):
                content = (folder / path).read_bytes()
                writer.write({"__key__": f"{number:04}", "png": content, "cls": label})
    datasets.DatasetDict(parts).save_to_disk(str(folder / "saved"))
    expected = list(feed(opened("image-folder", folder), CUT).train(1))
    (folder / "shards").mkdir()
    for part in parts:
        (folder / f"{part}-0.tar").rename(folder / f"shards/{part}-0.tar")
    for name, path in (("huggingface", "saved"), ("webdataset", "shards")):
        assert same(list(feed(opened(name, folder / path), CUT).train(1)), expected)


# ---- what is wrong -------------------------------------------------------------------------------


def refusal(**made: Any) -> str:
    """What is said of data that cannot be used: one sentence, and what to do."""
    with pytest.raises(KdError) as caught:
        opened(**made)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value.message


@pytest.mark.parametrize("kind", ["csv", "parquet of bytes"])
@pytest.mark.parametrize("key", ["image", "label", "split"])
def test_a_column_that_is_not_there_is_named(folder: Path, kind: str, key: str) -> None:
    assert f"has no column 'x' (data.{key})" in refusal(**PACKED[kind](folder), **{key: "x"})


def test_columns_that_no_name_gives_away_are_asked_for(folder: Path) -> None:
    table = folder / "t.csv"
    table.write_text("a,b\nx.png,cat\n", encoding="utf-8")
    assert "no column's name says that it holds pictures" in refusal(name="csv", path=table)
    message = refusal(name="csv", path=table, image="a")
    assert "no column's name says that it holds labels" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column's name"),
        ("path,label\n", "holds no picture"),
        ("path,label\nx.png\n", "t.csv, line 2: no 'label'"),
        ("path,label\n,cat\n", "t.csv, line 2: no 'path'"),
        ("path,label,split\ntrain/cat/0.png,cat,train\ntrain/dog/0.png,dog,dev\n", "1 picture (line 3) of the part 'dev'"),
        ("path,label,split\ngone.png,cat,train\ntrain/dog/0.png,dog,train\n", "no part test or val"),
        ('path,label\n"x', "cannot be read as a table of text"),
    ],
)  # fmt: skip
def test_a_text_table_that_cannot_be_used(folder: Path, text: str, said: str) -> None:
    (folder / "t.csv").write_text(text, encoding="utf-8")
    assert said in refusal(name="csv", path=folder / "t.csv")


def test_training_pictures_may_have_no_label(folder: Path) -> None:
    made = pack_csv(folder)
    table = Path(made["path"])
    lines = table.read_text(encoding="utf-8").replace("dog/0.png,dog,train", "dog/0.png,,train")
    table.write_text(lines, encoding="utf-8")
    source = opened(**made)
    assert [source.train[row] for row in (source.y_train == -1).nonzero()] == ["train/dog/0.png"]


def test_files_of_a_table_that_are_gone_are_found_before_training(folder: Path) -> None:
    made = pack_csv(folder)
    (folder / "test/dog/1.png").unlink()
    assert "test/dog/1.png is not an image" in refusal(**made)


def test_text_that_is_not_text_is_refused(folder: Path) -> None:
    (folder / "t.csv").write_bytes(b"path,label\n\xff\xfe,cat\n")
    assert "cannot be read as a table of text" in refusal(name="csv", path=folder / "t.csv")
    assert "no such file" in refusal(name="csv", path=folder / "none.csv")


def test_parquet_that_cannot_be_used(folder: Path) -> None:
    made = pack_bytes(folder)
    path = Path(made["path"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "t.parquet cannot be read as a table, or was cut off" in refusal(**made)
    from pyarrow import parquet, table

    parquet.write_table(table({"image": [1, 2], "label": ["a", "b"]}), path)
    assert "column 'image' holds int64, which are no pictures" in refusal(**made)
    parquet.write_table(table({"image": ["x", "y"], "label": [0.5, 1.0]}), path)
    assert "row 0 of column 'label' holds '0.5', which is no label" in refusal(**made)
    parquet.write_table(table({"image": ["x", None], "label": [0, 1]}), path)
    assert "row 1 has no picture" in refusal(**made)


def test_a_shard_that_was_cut_off_is_refused(folder: Path) -> None:
    made = pack_shards(folder, 1)
    path = folder / "shards/train-000.tar"
    whole = path.read_bytes()
    for end in (700, len(whole) // 2, len(whole) // 2 // 512 * 512):
        path.write_bytes(whole[:end])
        assert "train-000.tar was cut off" in refusal(**made)
    path.write_bytes(b"no tar" * 300)
    assert "train-000.tar is no tar file" in refusal(**made)
    import gzip

    path.write_bytes(gzip.compress(whole))
    assert "train-000.tar is compressed" in refusal(**made)


def test_a_shard_that_changes_under_a_run_stops_it(folder: Path, feed: Make) -> None:
    made = feed(opened(**pack_shards(folder, 1)), batch_size=4)
    path = folder / "shards/train-000.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(BadData, match="was cut off since it was looked at"):
        list(made.train(1))


def test_shards_that_cannot_be_used(folder: Path) -> None:
    picture = (folder / "train/cat/0.png").read_bytes()
    shard = folder / "a.tar"
    for samples, said in (
        ([{"key": "1", "cls": "cat"}], "hold no picture"),
        ([{"key": "1", "png": picture}], "nothing names the classes"),
        ([{"key": "1", "png": picture, "jpg": picture}], "two pictures of one sample"),
        ([{"key": "1", "png": picture, "cls": b"\xff"}], "the label of 1.png is no text"),
        ([{"key": "1", "png": picture, "json": "{"}], "the .json of 1.png is damaged"),
    ):
        write_shard(shard, samples)
        assert said in refusal(name="webdataset", path=shard)
    assert "not on this machine" in refusal(name="webdataset", path="https://x/{0..1}.tar")
    assert "no shards at" in refusal(name="webdataset", path=folder / "b-{0..1}.tar")


def test_what_save_to_disk_never_wrote_is_refused(folder: Path) -> None:
    made = pack_saved(folder)
    top = Path(made["path"])
    state = top / "train" / "state.json"
    whole = state.read_text(encoding="utf-8")
    for text, said in (
        ("{}", "names no files"),
        (json.dumps({"_data_files": [{"filename": "../../t.csv"}]}), "names no files"),
        ("{", "state.json"),
        (json.dumps({**json.loads(whole), "_indices_data_files": [1]}), "rows in an order"),
    ):
        state.write_text(text, encoding="utf-8")
        assert said in refusal(**made)
    state.write_text(whole, encoding="utf-8")
    file = top / "train" / "data-00000-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:-600])
    assert "cannot be read as a table, or was cut off" in refusal(**made)
    assert "holds no dataset of Hugging Face" in refusal(name="huggingface", path=folder / "train")


def test_pyarrow_that_is_not_there_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pack_saved(folder)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match="need the package pyarrow") as caught:
        opened(**made)
    assert caught.value.hint == "pip install 'kdcli[data]'"
