"""From an image file to pixels: shared by worker processes and by folders that are decoded once."""

from __future__ import annotations

from torch import Tensor
from torchvision.datasets.folder import default_loader
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

from kdcli.data.base import Folder
from kdcli.errors import BadData


def decode(folder: Folder, path: str) -> Tensor:
    """One picture of a folder as [3,h,w] uint8, as large as it is in the file.

    Raises:
        BadData: it cannot be decoded.
    """
    try:
        return pil_to_tensor(default_loader(folder.root / path))  # type: ignore[no-any-return]
    except Exception as error:  # decoders raise whatever they like: OSError, SyntaxError, struct.error, ...
        raise BadData(f"{folder.root / path} is not an image, or is damaged ({error})", hint="remove or replace the file") from error


def fit(folder: Folder, image: Tensor) -> Tensor:
    """A picture [3,h,w] uint8 at the folder's size [3,size,size]: shorter side resized, middle cut out."""
    if min(image.shape[1:]) != folder.resize:
        image = resize(image, [folder.resize], antialias=True)
    return center_crop(image, [folder.size, folder.size])  # type: ignore[no-any-return]
