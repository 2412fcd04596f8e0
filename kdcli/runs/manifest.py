"""The manifest of a run: which bytes its records had when they were written, so that damage to one
is seen and named, and never believed.

manifest.json holds the SHA-256 of each record by name, and of itself. It is written when a run
begins, for its recipe and its environment, and again at the end, for all records, just before
summary.json: so a run that is finished has it whole. Runs of before have none, and are read
unchecked. Standard library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdcli.errors import CorruptFile, KdError
from kdcli.files import MAX_JSON_BYTES, read_bytes, read_json, sha256_file, sha256_json, write_json
from kdcli.runs.folder import (
    ANALYSIS_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    MISTAKES_FILE,
    RECIPE_FILE,
)

MANIFEST_FILE = "manifest.json"
OF_ITSELF = "manifest_sha256"


def begin(run: Path) -> None:
    """Writes the manifest of a run that begins or goes on: what is known of it from its first day
    is kept, what is still to be written is not in it.
    """
    _write(run, _kept(run, (RECIPE_FILE, ENVIRONMENT_FILE)))


def seal(run: Path, to_come: Mapping[str, str]) -> None:
    """Writes the manifest of a run that is done.

    Args:
        to_come: texts of the records that will be written after it, by name.
    """
    found = _kept(run, (RECIPE_FILE, ENVIRONMENT_FILE))
    written = [METRICS_FILE, ANALYSIS_FILE]
    if (run / MISTAKES_FILE).is_file():  # not of every run
        written.append(MISTAKES_FILE)
    found |= {name: sha256_file(run / name) for name in written}
    _write(run, found | {name: _digest(text.encode()) for name, text in to_come.items()})


def check(path: Path) -> None:
    """Compares a record of a run with the run's manifest, if it has one that lists it.

    Raises:
        CorruptFile: they differ, or the manifest itself is damaged. NotFound: no such record.
    """
    expected = _read(path.parent).get(path.name)
    if expected is None:
        return
    if _digest(read_bytes(path, MAX_JSON_BYTES)) != expected:
        raise CorruptFile(f"{path} is damaged: it is not what {MANIFEST_FILE} says", hint=_HINT)


def read_record(path: Path) -> dict[str, Any]:
    """Reads a JSON record of a run, as `read_json`, after `check`."""
    check(path)
    return read_json(path)


_HINT = "copy the run again from where it was whole"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(run: Path) -> dict[str, str]:
    """Digests by name; none where there is no manifest."""
    path = run / MANIFEST_FILE
    if not path.is_file():
        return {}
    content = read_json(path)
    own = content.pop(OF_ITSELF, None)
    if own != sha256_json(content):
        raise CorruptFile(
            f"{path} is damaged: it does not match its checksum",
            hint="copy the run again; without the file, a run is read unchecked",
        )
    return {str(name): str(digest) for name, digest in content.items()}


def _kept(run: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The digests of records that do not change: as they were first written down."""
    earlier: dict[str, str] = {}
    with suppress(KdError):
        earlier = _read(run)
    return {name: earlier.get(name) or sha256_file(run / name) for name in names}


def _write(run: Path, digests: Mapping[str, str]) -> None:
    content = dict(sorted(digests.items()))
    write_json(run / MANIFEST_FILE, {**content, OF_ITSELF: sha256_json(content)})
