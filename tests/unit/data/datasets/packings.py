"""The pictures of an image folder once more, as tables and shards: small ones that tests write."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kdcli import catalog
from kdcli.data.source import ImageFolder

Rows = list[tuple[str, str, str]]  # path below the folder, class, part


def rows_of(folder: Path) -> Rows:
    """All pictures, classes in order, files in order."""
    return [
        (str(path.relative_to(folder)), path.parent.name, path.parent.parent.name)
        for path in sorted(folder.glob("*/*/*.png"))
    ]


def write_csv(folder: Path, rows: Rows, name: str = "t.csv", delimiter: str = ",") -> Path:
    with (folder / name).open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, delimiter=delimiter)
        writer.writerows([("path", "label", "split"), *rows])
    return folder / name


def write_shard(path: Path, samples: list[Mapping[str, bytes | str]]) -> Path:
    """A tar of samples: {"key": "a/1", "png": b"...", "cls": "cat"}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for sample in samples:
            for ending, content in sample.items():
                if ending != "key":
                    data = content.encode() if isinstance(content, str) else content
                    member = tarfile.TarInfo(f"{sample['key']}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return path


def pack_shards(folder: Path, shards: int = 3) -> dict[str, Any]:
    for part in ("train", "test"):
        rows = [row for row in rows_of(folder) if row[2] == part]
        samples = [
            {"key": f"{number:03}", "png": (folder / path).read_bytes(), "cls": label}
            for number, (path, label, _) in enumerate(rows)
        ]
        size = -(-len(samples) // shards)
        for number in range(shards):
            mine = samples[number * size : (number + 1) * size]
            write_shard(folder / f"shards/{part}-{number:03}.tar", mine)
    return {"name": "webdataset", "path": str(folder / "shards")}


def pack_csv(folder: Path) -> dict[str, Any]:
    return {"name": "csv", "path": str(write_csv(folder, rows_of(folder)))}


def pack_semicolons(folder: Path) -> dict[str, Any]:
    write_csv(folder, rows_of(folder), "t.txt", ";")
    return {"name": "csv", "path": str(folder / "t.txt")}


def _parquet(folder: Path, pictures: Callable[[Path], Any]) -> dict[str, Any]:
    arrow = pytest.importorskip("pyarrow", reason="parquet is read by pyarrow")
    from pyarrow import parquet

    rows = rows_of(folder)
    columns = {
        "image": [pictures(folder / path) for path, _, _ in rows],
        "label": [label for _, label, _ in rows],
        "split": [part for _, _, part in rows],
    }
    parquet.write_table(arrow.table(columns), folder / "t.parquet", row_group_size=7)
    return {"name": "parquet", "path": str(folder / "t.parquet")}


def pack_paths(folder: Path) -> dict[str, Any]:
    return _parquet(folder, lambda path: str(path.relative_to(folder)))


def pack_bytes(folder: Path) -> dict[str, Any]:
    return _parquet(folder, lambda path: path.read_bytes())


def pack_structs(folder: Path) -> dict[str, Any]:
    """Every second picture as a path alone."""

    def struct(path: Path) -> dict[str, Any]:
        inside = int(path.stem) % 2
        below = str(path.relative_to(folder))
        return {"bytes": path.read_bytes() if inside else None, "path": below}

    return _parquet(folder, struct)


FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
}


def pack_saved(folder: Path, compression: str | None = None) -> dict[str, Any]:
    """What save_to_disk writes, made with pyarrow alone: two arrow files in train."""
    arrow = pytest.importorskip("pyarrow", reason="arrow files are read by pyarrow")
    top = folder / "saved"
    for part, shards in (("train", 2), ("test", 1)):
        rows = [row for row in rows_of(folder) if row[2] == part]
        (top / part).mkdir(parents=True)
        names = []
        for number in range(shards):
            size = -(-len(rows) // shards)
            mine = rows[number * size : (number + 1) * size]
            cells = [
                {"bytes": (folder / path).read_bytes(), "path": Path(path).name}
                for path, _, _ in mine
            ]
            labels = [("cat", "dog").index(label) for _, label, _ in mine]
            meta = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
            table = arrow.table({"image": cells, "label": labels})
            table = table.replace_schema_metadata(meta)
            names.append(f"data-{number:05}-of-{shards:05}.arrow")
            options = arrow.ipc.IpcWriteOptions(compression=compression)
            with arrow.ipc.new_stream(top / part / names[-1], table.schema, options=options) as out:
                out.write_table(table, max_chunksize=4)
        state = {
            "_data_files": [{"filename": name} for name in names],
            "_split": part,
            "_fingerprint": part,
            "_output_all_columns": False,
            **{f"_format_{key}": None for key in ("type", "columns")},
            "_format_kwargs": {},
        }
        (top / part / "state.json").write_text(json.dumps(state), encoding="utf-8")
        info = json.dumps({"features": FEATURES})
        (top / part / "dataset_info.json").write_text(info, encoding="utf-8")
    (top / "dataset_dict.json").write_text('{"splits": ["train", "test"]}', encoding="utf-8")
    return {"name": "huggingface", "path": str(top)}


def pack_compressed(folder: Path) -> dict[str, Any]:
    return pack_saved(folder, "lz4")


def pack_hub(folder: Path) -> dict[str, Any]:
    """A folder of parquet files, as the hub has it."""
    made = pack_bytes(folder)
    from pyarrow import compute, parquet

    table = parquet.read_table(made["path"])
    (folder / "hub" / "data").mkdir(parents=True)
    for part in ("train", "test"):
        rows = table.filter(compute.equal(table["split"], part)).drop_columns("split")
        parquet.write_table(rows, folder / f"hub/data/{part}-00000-of-00001.parquet")
    return {"name": "huggingface", "path": str(folder / "hub")}


PACKED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "csv": pack_csv,
    "csv with semicolons": pack_semicolons,
    "parquet of paths": pack_paths,
    "parquet of bytes": pack_bytes,
    "parquet of structs": pack_structs,
    "save_to_disk": pack_saved,
    "compressed arrow": pack_compressed,
    "parquet of the hub": pack_hub,
    "webdataset": pack_shards,
}


def opened(name: str, path: str | Path, size: int = 8, **options: Any) -> ImageFolder:
    """A dataset by name, as a run opens it."""
    module = catalog.load(catalog.entry("dataset", name))
    chosen = module.Options(path=str(path), size=size, **options)
    found = module.load(name, options=chosen, root=Path())
    assert isinstance(found, ImageFolder)
    return found
