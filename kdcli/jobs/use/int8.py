"""An ONNX file in eight bits: weights and activations as int8, by the static quantisation of
onnxruntime, and what that costs in accuracy.

The range of each activation is what calibration images from the training data make of it. Weights
have a scale for each channel. Without such images a range would be a guess, so there is no int8
without data.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcli.core.types import SplitName
from kdcli.errors import Incompatible
from kdcli.jobs.use import formats
from kdcli.jobs.use.network import Classifier
from kdcli.jobs.use.onnx_file import INPUT
from kdcli.jobs.use.own_data import Images
from kdcli.results.export import Quantisation

CALIBRATION, MAX_DROP = 256, 1.0  # images; points of accuracy
OLDEST_OPSET = 13  # that knows a scale for each channel
_BATCH = 32
# of transformers, whose normalised and exponential values spread too far for eight bits
_SPREAD = {"LayerNormalization", "Softmax"}
_PRODUCTS = ["Conv", "Gemm", "MatMul"]


def check_images(images: Images) -> None:
    """Refuses data that no file can be quantised by and measured on.

    Raises:
        Incompatible: there is nothing to calibrate on or to test on.
    """
    splits: tuple[SplitName, ...] = ("train", "test")
    for split in splits:
        if not images.feed.size(split):
            raise Incompatible(
                f"{images.called} has no {split} split: int8 is calibrated on training images and "
                "measured on test images",
                hint="-d with data that have both",
            )


def quantise(path: Path, images: Images, count: int, prepare: Any) -> int:
    """Puts a file in eight bits in the place of an ONNX file.

    Args:
        count: of training images, by class, the same ones each time.
        prepare: a batch of normalised pictures as what the file takes.

    Returns:
        How many images there were.

    Raises:
        Incompatible: onnxruntime cannot quantise the network.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts = self.batches()
            self.count = 0

        def batches(self) -> Iterator[Tensor]:
            for batch in images.feed.sample("train", count):
                yield from torch.split(batch.x, _BATCH)

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            if part is None:
                return None
            self.count += len(part)
            return {INPUT: prepare(part).numpy()}

    said = {item.key: item.value for item in onnx.load(path).metadata_props}
    plain = path.with_name(f"{path.name}.plain")
    reader = Reader()
    try:
        with formats.quiet():
            quant_pre_process(path, plain, skip_symbolic_shape=True)
            kinds = {node.op_type for node in onnx.load(plain).graph.node}
            quantize_static(
                plain,
                path,
                reader,
                op_types_to_quantize=_PRODUCTS if kinds & _SPREAD else None,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
            )
    except Exception as error:  # its errors have no class in common
        first_line, _, _ = str(error).strip().partition("\n")
        raise Incompatible(
            f"onnxruntime cannot quantise this network: {type(error).__name__}: {first_line[:200]}",
            hint="leave --int8 out",
        ) from error
    finally:
        plain.unlink(missing_ok=True)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {**said, "quantised": f"int8, by {reader.count} images"})
    model.producer_name = "kdcli"
    onnx.save(model, path)
    return reader.count


def measured(
    network: Classifier,
    answer: formats.Answer,
    images: Images,
    prepare: Any,
    count: int,
    max_drop: float,
) -> Quantisation:
    """Accuracy on the test split of a network and of its file in eight bits; their agreement alone
    where it has no labels.

    Args:
        answer: the file. prepare: as in `quantise`. count: of images that it was calibrated on.
        max_drop: points that it may lose.
    """
    right = right_in_eight = total = same = 0
    with torch.no_grad():
        for batch in images.feed.split("test"):
            own = network(batch.x).argmax(1)
            theirs = answer(prepare(batch.x)).argmax(1)
            right += int((own == batch.y).sum())
            right_in_eight += int((theirs == batch.y).sum())
            same += int((own == theirs).sum())
            total += len(batch.y)
    bare = "test" in images.feed.info.bare
    return Quantisation(
        calibration=count,
        data=images.called,
        tested=total,
        accuracy=None if bare else right / total,
        accuracy_int8=None if bare else right_in_eight / total,
        agreement=same / total,
        max_drop=max_drop,
    )
