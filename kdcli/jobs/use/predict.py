"""`kd predict`: the likeliest classes of picture files, or of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdcli import formatting, tasks
from kdcli.data.tokens import encode
from kdcli.engine.runtime import Runtime
from kdcli.errors import BadCheckpoint, BadData, Incompatible, NotFound
from kdcli.files import is_file
from kdcli.jobs.use.network import load_network
from kdcli.jobs.use.onnx_file import open_onnx, said_by, vocabulary_of
from kdcli.jobs.use.pictures import as_input, find_pictures, normalised
from kdcli.jobs.use.texts import NAMED, find_texts, remark_on
from kdcli.results.predictions import Guess, Prediction, PredictResult, Unread
from kdcli.results.preprocessing import Preprocessing
from kdcli.results.vocabulary import Vocabulary

_AT_ONCE = 64  # pictures


@dataclass(frozen=True, slots=True)
class Answerer:
    """Whatever can be asked about pictures or texts. model: the file that it is from.

    answer: pictures [B,C,H,W] uint8, or tokens [B,1,1,L] int64 where there is a vocabulary, to
    logits [B,K] float32, on the CPU.
    """

    model: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    answer: Callable[[Tensor], Tensor]
    vocabulary: Vocabulary | None = None


def predict(
    run: str | Path,
    files: Sequence[str | Path],
    *,
    top: int = 5,
    device: str = "auto",
    trust: bool = False,
) -> PredictResult:
    """The likeliest classes of pictures or texts, by the softmax of a network's logits.

    A picture is read, resized, cut and normalised as those that the network was tested on. One that
    cannot be read is listed, and the others are answered.

    Args:
        run: a run directory, a model.safetensors, or an .onnx file of `export`, which answers on
            the CPU.
        files: picture files; folders, of which all pictures are meant; patterns such as "*.jpg".
            Of a network of texts: texts as they stand, or files of them (kdcli.jobs.use.texts).
        top: classes of each picture; all of them where there are fewer.
        trust: whether Python files run that the checkpoint names, and not the caller.

    Raises:
        NotFound: no such run or file. Incompatible: the network takes neither. BadCheckpoint,
            Untrusted: as `load_network`.
    """
    asked = _onnx(Path(run)) if _is_onnx(run) else _network(run, device, trust=trust)
    if asked.vocabulary is not None:
        return _of_texts(asked, asked.vocabulary, [str(file) for file in files], top)
    found = find_pictures([str(file) for file in files])
    if not asked.preprocessing.takes_pictures:
        shape = "x".join(map(str, asked.preprocessing.input_shape))
        raise Incompatible(
            f"{asked.model} takes inputs of {shape}, and a picture has one channel or three",
            hint="in Python: kdcli.jobs.load_network",
        )
    predictions: list[Prediction] = []
    unread: list[Unread] = []
    with ThreadPoolExecutor() as pool:  # decoders leave Python's lock
        for at in range(0, len(found), _AT_ONCE):
            part = found[at : at + _AT_ONCE]
            read = list(pool.map(lambda file: _read(file, asked.preprocessing), part))
            unread += [item for item in read if isinstance(item, Unread)]
            whole = [
                (str(file), item)
                for file, item in zip(part, read, strict=True)
                if not isinstance(item, Unread)
            ]
            predictions += _answered(asked, whole, top)
    return PredictResult(
        asked.model,
        len(asked.class_names),
        tuple(predictions),
        tuple(unread),
        tuple(_remarks(predictions)),
    )


def _of_texts(
    asked: Answerer, vocabulary: Vocabulary, given: Sequence[str], top: int
) -> PredictResult:
    texts = find_texts(given)
    predictions: list[Prediction] = []
    for at in range(0, len(texts), _AT_ONCE):
        part = texts[at : at + _AT_ONCE]
        tokens, counts = encode(vocabulary, [text for _, text in part])
        remarks = (
            remark_on(row, count, vocabulary.length)
            for row, count in zip(tokens, counts.tolist(), strict=True)
        )
        inputs = [
            (name, (row[None, None], remark))
            for (name, _), row, remark in zip(part, tokens, remarks, strict=True)
        ]
        predictions += _answered(asked, inputs, top)
    return PredictResult(
        asked.model,
        len(asked.class_names),
        tuple(predictions),
        warnings=tuple(_remarks(predictions)),
    )


def _is_onnx(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".onnx"


def _onnx(path: Path) -> Answerer:
    if not is_file(path):
        raise NotFound(f"no such file: {path}", hint="kd export RUN --format onnx")
    ask, texts = open_onnx(path)
    names, how, takes_pixels = said_by(path, texts)
    vocabulary = vocabulary_of(path, texts)
    if vocabulary is not None and how.input_shape != (1, 1, vocabulary.length):
        raise BadCheckpoint(
            f"{path} takes inputs of another length than its vocabulary says",
            hint="give a file that kd export --format onnx wrote, or a run",
        )

    def answer(pixels: Tensor) -> Tensor:
        as_they_are = takes_pixels or vocabulary is not None
        samples = "pictures" if vocabulary is None else "texts"
        logits = ask(pixels if as_they_are else normalised(pixels, how))
        if logits.shape != (len(pixels), len(names)):
            raise BadCheckpoint(
                f"{path} names {len(names)} classes, and answers {len(pixels)} {samples} with "
                f"{list(logits.shape)} numbers",
                hint="give a file that kd export --format onnx wrote, or a run",
            )
        return logits

    return Answerer(str(path), names, how, answer, vocabulary)


def _network(run: str | Path, device: str, *, trust: bool) -> Answerer:
    runtime = Runtime(device, precision="fp32")
    network = load_network(run, trust=trust)
    header = network.header
    task = tasks.of_model(header.architecture, header.input_shape)
    if not task.fixed_shape:
        raise Incompatible(
            f"{network.checkpoint} says {task.summary}, and kd predict names the class of a "
            "picture or a text",
            hint="kd evaluate measures it on a text; in Python: kdcli.jobs.load_network",
        )
    runtime.move(network.network)

    vocabulary = network.header.vocabulary

    def answer(given: Tensor) -> Tensor:
        x = given if vocabulary is not None else normalised(given, network.preprocessing)
        logits: Tensor = network(x.to(runtime.device))
        return logits.float().cpu()

    return Answerer(
        str(network.checkpoint), network.class_names, network.preprocessing, answer, vocabulary
    )


def _read(file: Path, how: Preprocessing) -> tuple[Tensor, str] | Unread:
    try:
        return as_input(file, how)
    except BadData as error:
        return Unread(str(file), error.message)


def _answered(
    asked: Answerer, pictures: Sequence[tuple[str, tuple[Tensor, str]]], top: int
) -> list[Prediction]:
    if not pictures:
        return []
    with torch.no_grad():
        logits = asked.answer(torch.stack([pixels for _, (pixels, _) in pictures]))
    probabilities, order = logits.double().softmax(-1).topk(min(top, len(asked.class_names)))
    return [
        Prediction(
            file,
            tuple(
                Guess(asked.class_names[index], index, probability)
                for index, probability in zip(indices, shares, strict=True)
            ),
            remark,
        )
        for (file, (_, remark)), indices, shares in zip(
            pictures, order.tolist(), probabilities.tolist(), strict=True
        )
    ]


def _remarks(predictions: Sequence[Prediction]) -> list[str]:
    """What was done to colours or texts, said once for all that it was done to."""
    said = []
    for remark in dict.fromkeys(item.remark for item in predictions if item.remark):
        files = [item.file for item in predictions if item.remark == remark]
        others = f" and {len(files) - 1} more" if len(files) > 1 else ""
        said.append(f"{formatting.short(files[0], NAMED)}{others}: {remark}")
    return said
