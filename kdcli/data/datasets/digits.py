"""Handwritten digits of 8x8 pixels that come with scikit-learn: nothing to fetch, seconds to train
on.

1797 images of the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin
and Kaynak, 1998), cut once and for all into 1437 to train on and 360 to test on, by class. Pixels
have 17 levels, spread over 0 to 255.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.core import random
from kdcli.core.options import Options
from kdcli.data.source import ImageArrays, channel_statistics
from kdcli.data.split import sample_by_class

DATASETS: dict[str, dict[str, Any]] = {
    "digits": {
        "summary": "8x8 handwritten digits that come with scikit-learn: no download",
        "classes": 10,
        "shape": [1, 8, 8],
        "train": 1437,
        "test": 360,
        "megabytes": 0,
        "download": False,
        "augment": {},
    },
}


def load(name: str, *, options: Options, root: Path) -> ImageArrays:  # noqa: ARG001  all families share this signature
    """The digits. `root` is not looked at: scikit-learn carries them."""
    table = torch.from_numpy(_table())
    x = table[:, :64].view(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
    y = table[:, 64].long()
    # its own key: a recipe's seed must not change the test set
    test = sample_by_class(y, 360, random.key(0, "digits test split"))
    mean, std = channel_statistics(x[~test])
    return ImageArrays(x[~test], y[~test], x[test], y[test], tuple("0123456789"), mean, std)


@functools.cache  # a run reads them three times, and a sweep in every cell
def _table() -> NDArray[np.float64]:
    """[1797,65]: 64 pixels of 0 to 16, then the label.

    Not by sklearn.datasets.load_digits: importing scikit-learn takes longer than training on its
    digits for an epoch.
    """
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None  # a dependency of kd
    assert spec.origin is not None
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file, "rt") as text:
        return np.fromstring(text.read().replace("\n", ","), sep=",").reshape(-1, 65)
