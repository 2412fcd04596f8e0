"""Other pictures of a network's classes, `kd evaluate --on FOLDER`: a folder a class, all of them
measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcli import formatting
from kdcli.core.types import UNLABELLED, Batch, DataInfo
from kdcli.data.folder_files import PARTS, class_folders, loose_pictures
from kdcli.data.picture import SUFFIXES
from kdcli.errors import BadData, Incompatible, NotFound
from kdcli.jobs.build.sights import preprocessing_of
from kdcli.jobs.use.pictures import as_input, normalised
from kdcli.results.preprocessing import Preprocessing
from kdcli.results.weights_header import CheckpointHeader

_AT_ONCE = 128  # pictures a batch


@dataclass(frozen=True, slots=True, eq=False)
class OtherPictures:
    """Pictures below a folder, as a network sees those that it was tested on.

    info: as of a dataset without a training split. files: paths below the folder, [n]. labels: [n],
    UNLABELLED where the folder has no class folders.
    """

    info: DataInfo
    folder: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    how: Preprocessing
    device: torch.device

    def batches(self) -> Iterator[Batch]:
        """All of them, in the order of their classes and names.

        Raises:
            BadData: one cannot be read.
        """
        with ThreadPoolExecutor() as pool:  # decoders leave Python's lock
            for at in range(0, len(self.files), _AT_ONCE):
                part = range(at, min(at + _AT_ONCE, len(self.files)))
                pixels = pool.map(
                    lambda row: as_input(self.folder / self.files[row], self.how)[0], part
                )
                x = normalised(torch.stack(list(pixels)), self.how).to(self.device)
                y = torch.tensor([self.labels[row] for row in part], device=self.device)
                index = torch.tensor(part, device=self.device)
                yield Batch(x, y, index, torch.zeros_like(index))


def other_pictures(
    folder: Path, path: Path, header: CheckpointHeader, device: torch.device
) -> OtherPictures:
    """The pictures below FOLDER/CLASS, for a checkpoint that knows these classes by name; those in
    a folder without class folders, which have no labels.

    Args:
        path, header: of the checkpoint.

    Raises:
        NotFound: no such folder, or no picture. BadData: it has a class that the network does not
            know. Incompatible: the network takes no pictures.
    """
    if not folder.is_dir():
        raise NotFound(f"no such folder: {folder}", hint="--on FOLDER, with a folder a class in it")
    how = preprocessing_of(path, header)
    if not how.takes_pictures:
        shape = "x".join(map(str, how.input_shape))
        raise Incompatible(
            f"{path} takes inputs of {shape}, and a picture has one channel or three",
            hint="-d NAME measures it on a dataset",
        )
    classes, notes = class_folders(folder, SUFFIXES)
    files = tuple(name for paths in classes.values() for name in paths)
    bare = () if classes else loose_pictures(folder, SUFFIXES)
    known = {name: number for number, name in enumerate(header.class_names)}
    if unknown := [name for name in classes if name not in known]:
        raise BadData(
            f"{folder} has folders that are no classes of {path}: "
            f"{formatting.listed(tuple(unknown), 5)}",
            hint=_what_to_do(folder, unknown, header),
        )
    if not files and not bare:
        raise NotFound(f"{folder} holds no picture in class folders", hint="put them there")
    labels = tuple(known[name] for name, paths in classes.items() for _ in paths)
    if bare:
        files, labels = bare, (UNLABELLED,) * len(bare)
        notes = ("no class folders: the pictures have no labels",)
    digest = hashlib.sha256()
    for name, label in zip(files, labels, strict=True):
        line = f"{label} {(folder / name).stat().st_size} {name}\n"
        digest.update(line.encode(errors="surrogateescape"))
    missing = [name for name in known if not classes.get(name)]
    if missing and not bare:
        there = f"{len(known) - len(missing)} of {len(known)} classes have pictures here; none:"
        notes = (f"{there} {formatting.listed(tuple(missing), 5)}", *notes)
    info = DataInfo(
        name="pictures",
        num_classes=header.num_classes,
        num_train=0,
        input_shape=header.input_shape,
        class_names=header.class_names,
        mean=header.mean,
        std=header.std,
        fingerprint=digest.hexdigest(),
        targets=torch.zeros(0, dtype=torch.int64),
        notes=notes,
        shown=how,
    )
    return OtherPictures(info, folder, files, labels, how, device)


def _what_to_do(folder: Path, unknown: list[str], header: CheckpointHeader) -> str:
    parts = {name for names in PARTS.values() for name in names}
    if found := next((name for name in unknown if name.lower() in parts), None):
        return f"--on {folder / found}, which has the class folders"
    return f"call them as the network does: {formatting.listed(header.class_names, 10)}"
