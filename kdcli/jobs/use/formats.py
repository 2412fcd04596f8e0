"""The formats that networks are exported to: each is written, and read again as a function.

torch is imported here; onnx, onnxruntime and onnxscript where they are needed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcli.errors import Incompatible
from kdcli.jobs.use.graph import Exportable, example, graph_of
from kdcli.jobs.use.library_folder import read_library_folder, write_library_folder
from kdcli.jobs.use.onnx_file import INPUT, OUTPUT, TOKENS, install_hint, open_onnx
from kdcli.jobs.use.torch_code import load_folder, write_folder
from kdcli.results.export import Format
from kdcli.results.preprocessing import Preprocessing

Answer = Callable[[Tensor], Tensor]
OPSET = 18
ENDINGS: Mapping[Format, str] = {
    "pytorch": "-pytorch",
    "onnx": ".onnx",
    "pt2": ".pt2",
    "torchscript": ".torchscript",
    "hf": "-hf",
}
_ONNX = ("onnx", "onnxruntime", "onnxscript")
_jit: Any = torch.jit  # has no types
_NOTE = "kd.json"  # in a pt2 or TorchScript file


@dataclass(frozen=True, slots=True)
class Work:
    """What is exported. name: of the network. about: what travels with it, as JSON can hold it:
    "class_names", "preprocessing", "input" and more. opset: of ONNX. how: a picture becomes its
    input.
    """

    module: Exportable
    name: str
    about: Mapping[str, Any]
    title: str
    opset: int
    how: Preprocessing

    @property
    def example(self) -> Tensor:
        return example(self.module, self.how.input_shape)


def check_installed(kind: Format) -> None:
    """Refuses a format whose packages are not there.

    Raises:
        UsageError: names what is missing.
    """
    if kind != "onnx":
        return
    for name in _ONNX:
        if importlib.util.find_spec(name) is None:
            raise install_hint(name)


def write(kind: Format, path: Path, work: Work) -> None:
    """Writes a network to a path where nothing is.

    Raises:
        Incompatible: the network cannot be said in this format.
    """
    _WRITERS[kind](path, work)


def read(kind: Format, path: Path) -> Answer:
    """What was written, as a function of pictures [B,C,H,W] that gives logits [B,K]."""
    with quiet():
        return _READERS[kind](path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters talk about themselves: deprecations, and operators that they know in two ways."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


# ---- torch's own ---------------------------------------------------------------------------------


def _write_pytorch(path: Path, work: Work) -> None:
    kind = work.about["input"]
    shape = f"[B,{','.join(map(str, work.how.input_shape))}] {kind}"
    path.mkdir()
    write_folder(
        path, graph_of(work.module, work.example, work.name), work.about, work.title, shape
    )


def _write_pt2(path: Path, work: Work) -> None:
    program = graph_of(work.module, work.example, work.name)
    with quiet():
        torch.export.save(program, path, extra_files={_NOTE: json.dumps(work.about)})


def _read_pt2(path: Path) -> Answer:
    module: Any = torch.export.load(path).module()
    return module  # type: ignore[no-any-return]


def _write_torchscript(path: Path, work: Work) -> None:
    try:
        with quiet(), torch.no_grad():
            traced = _jit.trace(work.module, work.example, check_trace=False)
            _jit.save(traced, path, _extra_files={_NOTE: json.dumps(work.about)})
    except (RuntimeError, TypeError, ValueError) as error:
        first_line, _, _ = str(error).strip().partition("\n")
        raise Incompatible(
            f"{work.name} cannot be traced: {first_line[:200]}", hint="choose another --format"
        ) from error


def _read_torchscript(path: Path) -> Answer:
    module: Any = _jit.load(path)
    return module  # type: ignore[no-any-return]


# ---- ONNX ----------------------------------------------------------------------------------------


def _write_onnx(path: Path, work: Work) -> None:
    import onnx

    program = graph_of(work.module, work.example, work.name)
    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(
                program,
                f=path,
                input_names=[TOKENS if work.module.tokens else INPUT],
                output_names=[OUTPUT],
                opset_version=work.opset,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's own, its converter's, onnx's
        first_line, _, _ = str(error).strip().partition("\n")
        raise Incompatible(
            f"{work.name} cannot be written as ONNX of opset {work.opset}: {first_line[:200]}",
            hint=f"--opset {OPSET}, or another --format",
        ) from error
    model = onnx.load(path)
    [written] = [each.version for each in model.opset_import if not each.domain]
    if written != work.opset:
        raise Incompatible(
            f"{work.name} cannot be written as ONNX of opset {work.opset}, only of {written}",
            hint=f"--opset {written}, or another --format",
        )
    _describe(model, work)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _describe(model: Any, work: Work) -> None:
    """Says in the file what goes in and what comes out, and nothing of the machine that made it."""
    import onnx

    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.value_info):
        size = value.type.tensor_type.shape.dim
        if value.name in {INPUT, TOKENS, OUTPUT}:
            size[0].dim_param = "batch"
    graph.name = work.name
    del graph.value_info[:]
    onnx.helper.set_model_props(
        model,
        {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in work.about.items()
        },
    )
    model.producer_name = "kdcli"


def _read_onnx(path: Path) -> Answer:
    return open_onnx(path)[0]


# ---- the library that it is from -----------------------------------------------------------------


def _write_hf(path: Path, work: Work) -> None:
    write_library_folder(path, work.module.network, tuple(work.about["class_names"]), work.how)


_WRITERS: Mapping[Format, Callable[[Path, Work], None]] = {
    "pytorch": _write_pytorch,
    "onnx": _write_onnx,
    "pt2": _write_pt2,
    "torchscript": _write_torchscript,
    "hf": _write_hf,
}
_READERS: Mapping[Format, Callable[[Path], Answer]] = {
    "pytorch": load_folder,
    "onnx": _read_onnx,
    "pt2": _read_pt2,
    "torchscript": _read_torchscript,
    "hf": read_library_folder,
}
