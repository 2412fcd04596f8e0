"""A network as a folder that needs torch alone: model.py, model.safetensors, and what its input and
output mean.

The code is written from the network's graph, so it holds for any network that has one, and rests on
no class of kd's or of anybody else's.
"""

from __future__ import annotations

import json
import operator
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from kdcli.engine.checkpoint import write_tensors
from kdcli.errors import Incompatible
from kdcli.files import write_text
from kdcli.jobs.use.graph import PREFIX

if TYPE_CHECKING:
    from torch.export import ExportedProgram

CODE_FILE, WEIGHTS_FILE = "model.py", "model.safetensors"
_CHECKS = ("aten._assert", "aten.sym_constrain_range")  # of what the tracer takes for granted

_HEAD = '''"""{title}

    from model import load

    network = load("folder")  # this folder; in eval mode, on the CPU
    logits = network(x)       # x: {input}; logits: [B,{classes}] float32

Needs torch alone. The weights are in {weights}, the names of the classes in labels.json, and how
a picture becomes x is in preprocessing.json. It is the network as it answers: batch norms use
the statistics that they have, dropout is left out. Its weights can be trained further so.
"""

from __future__ import annotations

import json
import operator
from pathlib import Path

import torch
from torch import nn

ops = torch.ops.aten
inf = float("inf")
DTYPES = {{
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}}


def load(folder=Path(__file__).parent):
    """The network with its weights, in eval mode, on the CPU."""
    tensors, metadata = read_safetensors(Path(folder) / "{weights}")
    return Network(tensors, frozenset(json.loads(metadata["buffers"]))).eval()


def read_safetensors(path):
    """Tensors by name, and the metadata, of a safetensors file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        content = bytearray(file.read())
    metadata = header.pop("__metadata__", {{}})
    tensors = {{}}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        part = torch.tensor([], dtype=torch.uint8)
        if end > begin:
            part = torch.frombuffer(content, dtype=torch.uint8, count=end - begin, offset=begin)
        tensors[name] = part.clone().view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


class Network(nn.Module):
    """{input} to logits [B,{classes}]."""

    def __init__(self, tensors, buffers):
        super().__init__()
        for name, tensor in tensors.items():
            *path, last = name.split(".")
            holder = self
            for part in path:
                if part not in holder._modules:
                    holder.add_module(part, nn.Module())
                holder = holder._modules[part]
            if name in buffers:
                holder.register_buffer(last, tensor)
            else:
                holder.register_parameter(last, nn.Parameter(tensor))

    def forward(self, x):
        w = {{**dict(self.named_parameters()), **dict(self.named_buffers())}}
'''


def write_folder(
    folder: Path,
    program: ExportedProgram,
    about: Mapping[str, Any],
    title: str,
    shape: str,
) -> None:
    """Writes a network's folder.

    Args:
        about: "class_names", and "preprocessing" as JSON can hold it.
        title: the first line of the code. shape: its input in words.

    Raises:
        Incompatible: an operation of it is not torch's own.
    """
    tensors, buffers = _tensors(program)
    head = _HEAD.format(
        title=_in_docstring(title),
        input=shape,
        classes=len(about["class_names"]),
        weights=WEIGHTS_FILE,
    )
    lines = [f"        {line}" for line in _Writer(program).lines()]
    write_text(folder / CODE_FILE, head + "\n".join(lines) + "\n")
    write_tensors(folder / WEIGHTS_FILE, tensors, {"buffers": json.dumps(sorted(buffers))})
    for name, key in (("labels.json", "class_names"), ("preprocessing.json", "preprocessing")):
        text = json.dumps(about[key], indent=2, ensure_ascii=False)
        write_text(folder / name, text + "\n")


def _in_docstring(text: str) -> str:
    return text.replace("\\", "/").replace('"', "'")


def _tensors(program: ExportedProgram) -> tuple[dict[str, Tensor], frozenset[str]]:
    """The tensors that the graph reads, by name, and the names of those that are no parameters."""
    names = _names(program)
    used = {node.name for node in program.graph_module.graph.nodes if node.users}
    held = {**program.constants, **program.state_dict}
    tensors = {
        _short(name): held[name].detach().clone().contiguous()
        for place, name in names.items()
        if place in used
    }
    parameters = {_short(name) for name in program.graph_signature.inputs_to_parameters.values()}
    return tensors, frozenset(tensors.keys() - parameters)


def _names(program: ExportedProgram) -> dict[str, str]:
    """The tensor that each input of the graph stands for, but its pictures."""
    signature = program.graph_signature
    return {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }


def _short(name: str) -> str:
    return name.removeprefix(PREFIX)


class _Writer:
    """The lines of forward. A variable is used again as soon as nobody needs what is in it, so that
    memory is free as early as in the network itself.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self._nodes = list(program.graph_module.graph.nodes)
        self._words = {place: f"w[{_short(name)!r}]" for place, name in _names(program).items()}
        self._words[program.graph_signature.user_inputs[0]] = "x"
        self._free: list[str] = []
        self._count = 0
        self._last = {
            used: number for number, node in enumerate(self._nodes) for used in node.all_input_nodes
        }

    def lines(self) -> Iterator[str]:
        module = ""
        for number, node in enumerate(self._nodes):
            if node.op == "output":
                [answer] = node.args[0]
                yield f"return {self._words[answer.name]}"
            elif node.op == "call_function" and not str(node.target).startswith(_CHECKS):
                if (path := _module_of(node)) and path != module:
                    module = path
                    yield f"# {path}"
                yield self._line(number, node)
            elif node.op == "get_attr":
                raise _foreign(node)

    def _line(self, number: int, node: fx.Node) -> str:
        call = self._call(node)
        for used in dict.fromkeys(node.all_input_nodes):
            if self._last[used] == number and used.op == "call_function":
                self._free.append(self._words[used.name])
        if not node.users:
            return call
        if self._free:
            name = min(self._free)
            self._free.remove(name)
        else:
            name, self._count = f"y{self._count or ''}", self._count + 1
        self._words[node.name] = name
        return f"{name} = {call}"

    def _call(self, node: fx.Node) -> str:
        target: Any = node.target
        if target is operator.getitem:
            return f"{self._word(node.args[0])}[{node.args[1]}]"
        given = [self._word(value) for value in node.args]
        given += [f"{key}={self._word(value)}" for key, value in node.kwargs.items()]
        return f"{_function(node)}({', '.join(given)})"

    def _word(self, value: Any) -> str:
        match value:
            case fx.Node():
                return self._words[value.name]
            case list() | tuple():
                return f"[{', '.join(self._word(item) for item in value)}]"
            case torch.device():
                return "x.device"  # wherever the network is by then
            case None | bool() | int() | float() | str():
                return repr(value)
            case torch.dtype() | torch.layout() | torch.memory_format():
                return str(value)
        raise Incompatible(
            f"the network holds a {type(value).__name__}, which no code of torch's says",
            hint="choose another --format",
        )


def _function(node: fx.Node) -> str:
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":  # noqa: SLF001  it has no public name
        return str(target).replace("aten.", "ops.", 1)
    if isinstance(target, types.BuiltinFunctionType) and hasattr(operator, target.__name__):
        return f"operator.{target.__name__}"
    name = str(getattr(target, "__name__", ""))
    if getattr(torch, name, None) is target:
        return f"torch.{name}"
    raise _foreign(node)


def _foreign(node: fx.Node) -> Incompatible:
    return Incompatible(
        f"the network does {node.target}, which torch alone does not know",
        hint="choose another --format",
    )


def _module_of(node: fx.Node) -> str:
    """The path of the module whose operation it is; "" where it is the network's own."""
    paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return _short(str(paths[-1])) if paths and str(paths[-1]).startswith(PREFIX) else ""


def load_folder(folder: Path) -> nn.Module:
    """What `load` of a folder's own code gives."""
    code = types.ModuleType("exported_model")
    file = folder / CODE_FILE
    code.__file__ = str(file)
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), code.__dict__)  # noqa: S102  written a moment ago
    network: nn.Module = code.load(folder)
    return network
