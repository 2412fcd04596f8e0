"""ONNX files that kd wrote, run by onnxruntime, which is imported here and only when one is opened.

A stranger's file runs no code, but what it says is read with care.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcli.errors import BadCheckpoint, UsageError
from kdcli.files import parse_json
from kdcli.results.preprocessing import Preprocessing
from kdcli.results.vocabulary import Vocabulary
from kdcli.typed import strict

INPUT, TOKENS, OUTPUT = "pictures", "tokens", "logits"  # the names that the file gives them
_LARGEST = 8192  # pixels of a side that a picture is resized to
_HINT = "give a file that kd export --format onnx wrote, or a run"


def install_hint(name: str) -> UsageError:
    """The refusal where a package that ONNX needs is not there."""
    return UsageError(
        f"ONNX needs {name}, which is not installed", hint="pip install 'kdcli[onnx]'"
    )


def open_onnx(path: Path) -> tuple[Callable[[Tensor], Tensor], Mapping[str, str]]:
    """A file as a function of inputs [B,C,H,W] that gives logits [B,K], on the CPU, and the texts
    that it carries by name.

    Raises:
        UsageError: onnxruntime is not installed. BadCheckpoint: it is no ONNX file, or is damaged.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise install_hint("onnxruntime") from error
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 4  # what is wrong is raised, too
    try:
        session = onnxruntime.InferenceSession(
            path, sess_options=settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no class in common
        raise BadCheckpoint(f"{path} is not an ONNX file, or is damaged", hint=_HINT) from error

    def answer(pictures: Tensor) -> Tensor:
        try:
            name = INPUT if pictures.dtype != torch.int64 else TOKENS
            [logits] = session.run([OUTPUT], {name: pictures.numpy()})
        except Exception as error:  # other names, another size or type of input
            raise BadCheckpoint(
                f"{path} does not answer pictures as it says that it does", hint=_HINT
            ) from error
        return torch.from_numpy(logits)

    return answer, session.get_modelmeta().custom_metadata_map


def vocabulary_of(path: Path, texts: Mapping[str, str]) -> Vocabulary | None:
    """How a file says that a text becomes its input; None where it takes no texts.

    Raises:
        BadCheckpoint: it says it, and not as kd does.
    """
    if "vocabulary" not in texts:
        return None
    try:
        return strict(Vocabulary, parse_json(texts["vocabulary"]))
    except ValueError as error:
        raise BadCheckpoint(
            f"{path} does not say how a text becomes its input: {error}", hint=_HINT
        ) from error


def said_by(path: Path, texts: Mapping[str, str]) -> tuple[tuple[str, ...], Preprocessing, bool]:
    """What a file says: its classes, how a picture becomes an input, and whether that is pixels as
    they are.

    Raises:
        BadCheckpoint: it does not say it, or not as kd does.
    """
    foreign = BadCheckpoint(
        f"{path} does not say its classes, or how a picture becomes its input", hint=_HINT
    )
    try:
        given: dict[str, Any] = {
            key: parse_json(texts[key]) for key in ("class_names", "preprocessing")
        }
        names = strict(tuple[str, ...], given["class_names"])
        how = strict(Preprocessing, given["preprocessing"])
    except (KeyError, ValueError) as error:
        raise foreign from error
    channels, *sides = how.input_shape
    if not all(0 < side <= _LARGEST for side in (*how.sides, *sides)):
        raise foreign
    if {len(how.mean), len(how.std)} != {channels}:
        raise foreign
    return names, how, texts.get("input") == "uint8"
