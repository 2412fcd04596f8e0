"""Pictures out of datasets of other libraries that are asked by number: Hugging Face's, and
PyTorch's whose pictures are not all of one size. Workers ask for them as they are needed.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from kdcli.errors import BadData

_SAMPLED = 64  # pictures of a part by whose content it is known again


@dataclass(frozen=True, eq=False)
class _Numbered:
    """Datasets whose pictures have names such as train#17. parts: the dataset of each part."""

    parts: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        part, _, row = name.partition("#")
        return part in self.parts and row.isdecimal()

    def _at(self, name: str) -> tuple[str, int]:
        """The part of a picture, and its number there."""
        part, _, row = name.partition("#")
        return part, int(row)


@dataclass(frozen=True, eq=False)
class HuggingFaceRows(_Numbered):
    """The pictures of a DatasetDict: content of image files, as stored.

    parts: with pictures undecoded. column: that of the pictures.
    """

    column: str

    def size(self, name: str) -> int:
        """Bytes of a picture."""
        return len(self.read(name))

    def read(self, name: str) -> bytes:
        """The content of a picture.

        Raises:
            BadData: it has none, or the file that it names cannot be read.
        """
        part, row = self._at(name)
        cell = self.parts[part][row][self.column] or {}
        content, path = cell.get("bytes"), cell.get("path")
        if content is not None:
            return bytes(content)
        if path is None:
            raise BadData(f"row {row} of {part} has no picture", hint="remove the row")
        try:
            return Path(path).read_bytes()
        except OSError as error:
            problem = f"{path} cannot be read: {error.strerror}"
            raise BadData(problem, hint="put it back") from error


@dataclass(frozen=True, eq=False)
class TorchItems(_Numbered):
    """The pictures of datasets whose items are (Pillow image, label)."""

    def size(self, name: str) -> int:
        """A number that changes with the picture, of some pictures of each part; 0 of others: to
        know all of them would mean to decode all.
        """
        part, row = self._at(name)
        step = max(len(self.parts[part]) // _SAMPLED, 1)
        if row % step:
            return 0
        return int.from_bytes(hashlib.sha256(self.read(name)).digest()[:6], "big")

    def read(self, name: str) -> bytes:
        """A picture as the content of a file that is not compressed.

        Raises:
            BadData: its dataset fails, or gives something else.
        """
        part, row = self._at(name)
        try:
            image = self.parts[part][row][0]
        except Exception as error:
            raise BadData(
                f"sample {row} of {part} cannot be had: {type(error).__name__}: {error}",
                hint="the dataset's own code raised this",
            ) from error
        if not isinstance(image, Image.Image):
            raise BadData(
                f"sample {row} of {part} is a {type(image).__name__}, and others are pictures of "
                "Pillow's",
                hint="give all samples one type",
            )
        file = io.BytesIO()
        image.convert("L" if image.mode == "L" else "RGB").save(file, "BMP")
        return file.getvalue()
