"""Networks of transformers that read texts: causal language models, and networks that sort texts
into classes. kdcli/models/hf.py says where they are from.

A language model reads blocks of at most as many tokens as it has places, each from its beginning,
and its weights may be tied to those that words are embedded by. A network of classes is told which
tokens fill a text up, so that they count for nothing.

Tap: "pooled", what feeds the last layer, [B*L,D] or [B,D].
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcli.core import tokenizer
from kdcli.core.network import Blueprint, Network
from kdcli.core.types import DataInfo, Output, Tap
from kdcli.errors import Incompatible, KdError, UsageError
from kdcli.models import _hf_folder as files
from kdcli.models._checks import check_taps
from kdcli.models._foreign_weights import read_tensors
from kdcli.models._headed import head_path
from kdcli.models._hf_config import (
    CAUSAL,
    SEQUENCE,
    Purpose,
    carried,
    config_of,
    first_line,
    library,
    quiet,
)
from kdcli.models._meta import evaluating
from kdcli.models._transformer import in_blocks, tokens_of
from kdcli.results.vocabulary import BEHIND

TOKEN = (1, 1, 1)  # the input of a language model: one number
_PROBED = 4  # tokens that a network is tried with
_OWN_HEADS = ("classifier", "pre_classifier", "score", "classification_head", "qa_outputs")


def reads_text(input_shape: tuple[int, int, int]) -> bool:
    """Tells whether inputs of this shape are tokens."""
    return tuple(input_shape[:2]) == (1, 1)


def build(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> Network:
    """A network of transformers for tokens, as kdcli.models.hf.build says.

    Raises:
        Incompatible: its vocabulary is not as large as that of the data, a text is longer than it
            reads, or it has no one linear layer at its end. Others: as there.
    """
    transformers = library(name)
    purpose = CAUSAL if tuple(input_shape) == TOKEN else SEQUENCE
    weights, own = arguments.get("weights"), arguments.get("config")
    carries = own is not None and weights is None
    folder = Path() if carries else files.folder_of(name)
    content = dict(own) if own is not None else files.read_config(folder)
    changes = dict(arguments.get("arguments", {}))
    config = config_of(transformers, name, {**content, **changes}, changes, purpose)
    _fit(name, config, num_classes, purpose, fresh=weights is None)
    published = num_classes
    if purpose is SEQUENCE:
        if weights is not None:
            published = len(files.class_names(content, folder / files.CONFIG))
        config.num_labels = published
    with quiet(transformers):
        model, headless = _construct(transformers, name, config, purpose, folder, weights)
    network: Network
    if purpose is CAUSAL:
        network = LanguageModel(name, model, _places(config) or 1024)
        _check_looks_back(name, network)
    else:
        network = TextClassifier(name, model, config.pad_token_id or 0)
        _check_length(name, model, config, input_shape[2])
        if headless or published != num_classes:
            network.new_head = headless or f"{published} classes"
            network.head = nn.Linear(
                network.head.in_features, num_classes, bias=network.head.bias is not None
            )
    network.blueprint = Blueprint(name, {"config": carried(name, config)})
    return network


def _fit(name: str, config: Any, classes: int, purpose: Purpose, *, fresh: bool) -> None:
    """Gives a fresh language model the vocabulary of the data; refuses another one of weights."""
    if purpose is SEQUENCE:
        return
    config.pad_token_id = None  # a text is read without one: every token counts
    if fresh:
        config.vocab_size = classes
        for key in ("bos_token_id", "eos_token_id"):
            number = getattr(config, key, None)
            if isinstance(number, int) and number >= classes:
                setattr(config, key, None)
    elif config.vocab_size != classes:
        raise Incompatible(
            f"{name} has a vocabulary of {config.vocab_size:,} tokens, and the text one of "
            f"{classes:,}",
            hint=f"its own tokenizer: -s data.tokenizer={name.removeprefix(files.PREFIX)}",
        )


def usual(config: Mapping[str, Any]) -> tuple[tuple[int, int, int], int | None] | None:
    """What a folder's network of texts is for, by the class that its config names: the shape of its
    input, and how many tokens it chooses among, None of one with classes; None of a network of
    pictures.
    """
    named = config.get("architectures")
    cls = str(named[0]) if isinstance(named, list) and named else ""
    tokens = config.get("vocab_size")
    if cls.endswith(("ForCausalLM", "LMHeadModel")) and type(tokens) is int and tokens > 0:
        return TOKEN, tokens
    if cls.endswith("ForSequenceClassification"):
        places = config.get("max_position_embeddings")
        most = places if type(places) is int and places > 4 else 514
        return (1, 1, min(most - 2, 512)), None  # of a RoBERTa's places two are no tokens'
    return None


def check_vocabulary(name: str, info: DataInfo) -> None:
    """Refuses data whose tokens are not those that a folder's weights were trained on.

    Raises:
        Incompatible: they are others, or no tokenizer says. Others: as read_tokenizer.
    """
    folder = files.folder_of(name)
    hint = f"-s data.tokenizer={name.removeprefix(files.PREFIX)}"
    try:
        own = tokenizer.read_tokenizer(folder)
    except KdError as error:
        raise Incompatible(
            f"{name} has no tokenizer that says what its tokens are: {error.message}",
            hint="save_pretrained of its tokenizer writes tokenizer.json beside its weights",
        ) from error
    vocabulary = info.vocabulary
    if vocabulary is None:
        if differs := _first_difference(own.words, info.class_names):
            raise Incompatible(
                f"{name} and {info.name} have no common vocabulary: {differs}", hint=hint
            )
        return
    if vocabulary.tokenizer is None:
        raise Incompatible(
            f"{name} and {info.name} have no common vocabulary: it reads by a tokenizer of its own",
            hint=hint,
        )
    theirs = tokenizer.opened(vocabulary.tokenizer).get_vocab(with_added_tokens=True)
    mine = tokenizer.opened(own.content).get_vocab(with_added_tokens=True)
    if theirs != mine:
        raise Incompatible(
            f"{name} and {info.name} have no common vocabulary: data.tokenizer has other tokens "
            "than its own, or in another order",
            hint=hint,
        )


def _first_difference(own: tuple[str, ...], others: tuple[str, ...]) -> str:
    if len(own) != len(others):
        return f"it has {len(own):,} tokens, and the text {len(others):,}"
    for place, (mine, theirs) in enumerate(zip(own, others, strict=True)):
        if mine != theirs:
            return f"token {place} is {mine!r} to it, and {theirs!r} to the text"
    return ""


def _check_length(name: str, model: nn.Module, config: Any, length: int) -> None:
    most = _places(config)
    if most is None:
        return
    # RoBERTa and its kin number places from behind the one that fills up
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding) and path.endswith("position_embeddings"):
            most -= 0 if module.padding_idx is None else module.padding_idx + 1
    if length > most:
        raise Incompatible(
            f"{name} reads {most} tokens at most, and a text has up to {length} (data.length)",
            hint=f"-s data.length={most}",
        )


def _places(config: Any) -> int | None:
    """Tokens that a network has places for."""
    said = getattr(config, "max_position_embeddings", None)
    return said if isinstance(said, int) and said > 0 else None


def _construct(
    transformers: Any, name: str, config: Any, purpose: Purpose, folder: Path, weights: str | None
) -> tuple[nn.Module, str]:
    """The network of transformers, and what its head was made for where the file has none of it."""
    auto = getattr(transformers, purpose.auto)
    try:
        with contextlib.nullcontext() if weights is None else torch.device("meta"):
            outline: Any = auto.from_config(config, trust_remote_code=False, dtype=torch.float32)
        if weights is None:
            return outline, ""
        model, told = type(outline).from_pretrained(
            None,
            config=config,
            state_dict=read_tensors(*files.files_of(folder, weights)),
            output_loading_info=True,
            dtype=torch.float32,
        )
    except ImportError as error:
        raise UsageError(f"{name} takes another package: {first_line(error)}") from error
    except KdError:
        raise
    except Exception as error:  # whatever a constructor says to a config that cannot be
        raise Incompatible(f"{name} cannot be built: {first_line(error)}") from error
    lacking = sorted(str(key) for key in told["missing_keys"])
    ended = purpose is SEQUENCE and all(_is_end(key) for key in lacking)
    if lacking and not ended:
        raise Incompatible(
            f"the weights of {name} do not fit: {len(lacking)} tensors are missing ({lacking[0]})",
            hint="the file must be of that very network, with its arguments",
        )
    found: nn.Module = model
    return found, "something else than classes" if lacking else ""


def _is_end(key: str) -> bool:
    """Tells whether a tensor is of what stands between a body and its classes."""
    parts = key.split(".")
    return parts[0] in _OWN_HEADS or "pooler" in parts


def _check_looks_back(name: str, network: Network) -> None:
    """Refuses a network whose answer about a token depends on those after it."""
    weight = network.head.weight
    if weight.is_meta:
        return
    one = torch.zeros(1, 1, 1, _PROBED, dtype=torch.int64, device=weight.device)
    other = one.clone()
    other[..., -1] = len(weight) - 1
    with evaluating(network):
        first, second = network(one).logits, network(other).logits
    if not torch.equal(first[:-1], second[:-1]):
        raise Incompatible(
            f"{name} is no language model that reads from left to right: what it says of a token "
            "depends on those after it",
            hint="a causal one, such as a GPT-2; of a BERT arguments = { is_decoder = true }",
        )


# ---- the networks --------------------------------------------------------------------------------


class TiedWords(nn.Module):
    """The weights [K,D] of the last layer as those that words are embedded by, times `scale`. A
    checkpoint holds them once, as that layer's.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight
        self.scale: Tensor
        self.register_buffer("scale", torch.ones((), device=layer.weight.device))

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.embedding(tokens, self.weight) * self.scale

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:  # noqa: FBT001  torch's
        destination[f"{prefix}scale"] = self.scale if keep_vars else self.scale.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if (found := state_dict.get(f"{prefix}scale")) is None:
            rest[2].append(f"{prefix}scale")  # missing keys
        else:
            with torch.no_grad():
                self.scale.copy_(found)


class _Text(Network):
    """A network of transformers without its last layer, and that."""

    def __init__(self, name: str, net: nn.Module, head: nn.Linear, path: str) -> None:
        super().__init__()
        self.name, self.path = name, path
        net.set_submodule(path, nn.Identity())
        self.head, self.net = head, net
        self.taps = {"pooled": Tap(head.in_features, None)}

    def trunk(self, upto: str) -> tuple[nn.Module, ...]:
        """All but the last layer."""
        check_taps(self.name, (upto,), self.taps)
        return (self.net,)

    def norm_at(self, tap: str) -> None:
        """None: there are no batch norms."""
        check_taps(self.name, (tap,), self.taps)


class LanguageModel(_Text):
    """Tokens of a text to logits of the token after each.

    Args:
        net: transformers' network. context: tokens that it reads at once.
    """

    context: int

    def __init__(self, name: str, net: Any, context: int) -> None:
        head = net.get_output_embeddings()
        path = next((path for path, module in net.named_modules() if module is head), None)
        if path is None or not _gives_logits(net, head):
            raise Incompatible(
                f"{name} does not end in one linear layer: kd needs one there",
                hint="choose another, such as a GPT-2 or a Llama",
            )
        words = net.get_input_embeddings()
        if (tied := words.weight is head.weight) and type(words) is not nn.Embedding:
            raise Incompatible(
                f"{name} embeds words in a way of its own, with the weights of its last layer",
                hint="arguments = { tie_word_embeddings = false }, or another network",
            )
        super().__init__(name, net, head, path)
        self.context = context
        if tied:
            net.set_input_embeddings(TiedWords(head))

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        """Logits [B*L,K], window by window, of tokens x [B,1,1,L]."""
        check_taps(self.name, taps, self.taps)
        pooled = in_blocks(self._read, tokens_of(x), self.context)  # [B*L,D]
        return Output(self.classify(pooled), {"pooled": pooled} if taps else {})

    def _read(self, tokens: Tensor) -> Tensor:
        mask = None
        if tokens.is_meta:  # shapes alone: transformers would look at values to make one
            length = tokens.shape[1]
            mask = torch.ones(len(tokens), 1, length, length, dtype=torch.bool, device="meta")
        found: Tensor = self.net(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        return found

    def logits_divided(self, divisor: float) -> None:
        """Embeds words as before: by the last layer's weights, times what these were divided by."""
        for module in self.net.modules():
            if isinstance(module, TiedWords):
                module.scale *= divisor


class TextClassifier(_Text):
    """Tokens of a text to logits of its class.

    Args:
        net: transformers' network. padding: its number of what fills a text up.
    """

    def __init__(self, name: str, net: Any, padding: int) -> None:
        path = head_path(net)
        head = None if path is None else net.get_submodule(path)
        if path is None or not isinstance(head, nn.Linear) or not _gives_logits(net, head):
            raise Incompatible(
                f"{name} does not end in one linear layer for the whole text: kd needs one there",
                hint="choose another, such as a BERT, a DistilBERT or a RoBERTa",
            )
        super().__init__(name, net, head, path)
        self._padding = padding
        self.vocabulary = int(net.get_input_embeddings().weight.shape[0])

    def forward(self, x: Tensor, taps: tuple[str, ...] = ()) -> Output:
        """Logits [B,K] of tokens x [B,1,1,L]."""
        check_taps(self.name, taps, self.taps)
        given = tokens_of(x)  # [B,L]
        there = given > 0
        ids = torch.where(there, (given - BEHIND).clamp(min=0), self._padding)
        # a text without a token looks at all places: a softmax over none would be NaN
        looked_at = there | ~there.any(1, keepdim=True)
        mask = looked_at.long()
        if x.is_meta:  # shapes alone: transformers would look at the values of a plain mask
            mask = looked_at[:, None, None].expand(-1, 1, x.shape[-1], -1)
        pooled = self.net(input_ids=ids, attention_mask=mask).logits
        return Output(self.classify(pooled), {"pooled": pooled} if taps else {})


def _gives_logits(net: Any, head: nn.Module) -> bool:
    """Tells whether a layer's output is what the network answers; where it has no values, as far as
    its kind tells.
    """
    if not isinstance(head, nn.Linear) or head.weight.is_meta:
        return isinstance(head, nn.Linear)
    outputs: list[Any] = []
    handle = head.register_forward_hook(lambda _module, _given, output: outputs.append(output))
    ids = torch.zeros(1, _PROBED, dtype=torch.int64, device=head.weight.device)
    try:
        with evaluating(net):
            logits = net(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    except Exception:  # noqa: BLE001  whatever a network says to tokens alone
        return False
    finally:
        handle.remove()
    return len(outputs) == 1 and outputs[0] is logits
