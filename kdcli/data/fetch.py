"""Fetching an archive, only ever on request, with its published checksum."""

from __future__ import annotations

import errno
import tarfile
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from torchvision.datasets.utils import download_and_extract_archive

from kdcli.errors import DiskFull, KdError, NotWritable


def fetch(urls: Sequence[str], folder: Path, *, filename: str, md5: str) -> None:
    """Fetches an archive from the first address that gives it, checks it and unpacks it into
    `folder`.

    What is there already with the right checksum is not fetched again, but unpacked again: it may
    have been cut off.

    Args:
        urls: the same file at several places.
        folder: made if need be.
        filename: what the archive is called there.
        md5: hex digest.

    Raises:
        NotWritable, DiskFull: the folder takes no more.
        KdError: no address gave the file.
    """
    failure: Exception | None = None
    for url in urls:
        try:
            download_and_extract_archive(url, str(folder), filename=filename, md5=md5)
        except (
            OSError,
            HTTPException,
            RuntimeError,
            EOFError,
            tarfile.TarError,
            zlib.error,
        ) as error:
            if isinstance(error, HTTPError):
                error.close()  # it carries the connection
            _stop_if_hopeless(error, folder)
            failure = error
        else:
            return
    raise KdError(
        f"{filename} could not be fetched from {urls[-1]}: {failure}",
        hint=f"check the network and try again, or put the file into {folder} by hand",
    ) from failure


def _stop_if_hopeless(error: Exception, folder: Path) -> None:
    """Raises what no other address can help with."""
    if not isinstance(error, OSError) or isinstance(error, URLError):
        return
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        raise DiskFull(
            f"the disk is full: {folder}",
            hint="free some space, or set KD_DATA_DIR to another folder",
        ) from error
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}:
        raise NotWritable(
            f"cannot write to {folder}: {error.strerror}",
            hint="set KD_DATA_DIR to a folder that you may write to",
        ) from error
