"""A folder of its own for every test, recipes written into it, and checkpoints that are headers
without a network.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from kdcli.errors import RecipeInvalid
from kdcli.recipe.resolve import resolve
from kdcli.results.weights_header import CheckpointHeader


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(here):
    def write(name: str, text: str) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def checkpoint(here):
    """Writes a checkpoint of one tensor whose header says what a test needs."""

    def make(name: str = "runs/t/model.safetensors", **changes) -> Path:
        header = {
            "architecture": "cnn-large",
            "arguments": {},
            "num_classes": 10,
            "input_shape": (1, 8, 8),
            "class_names": tuple("0123456789"),
            "mean": (0.3,),
            "std": (0.2,),
            "data": {"name": "digits", "val_fraction": 0.2, "eval_batch_size": 16},
            "data_fingerprint": "f",
            "parameters": 1,
            "tensors_sha256": "5a",
            **changes,
        }
        tensors = {
            "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "__metadata__": CheckpointHeader(**header).to_metadata(),
        }
        text = json.dumps(tensors).encode()
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
        return path

    return make


def refused(kind="distill", **arguments) -> RecipeInvalid:
    """The error of a recipe that does not validate, its exit code checked."""
    with pytest.raises(RecipeInvalid) as caught:
        resolve(kind, environ={}, **arguments)
    assert caught.value.exit_code == 2
    return caught.value


def told(error: RecipeInvalid) -> dict[str, tuple[str, str | None, str]]:
    """The problems by key: problem, hint, place."""
    return {item.key: (item.problem, item.hint, str(item.where)) for item in error.diagnostics}
