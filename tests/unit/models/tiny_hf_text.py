"""Networks of transformers for texts, as small as their configs make them, with a tokenizer of their
own, in folders that nothing is fetched for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdcli.core import random

_SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CAUSAL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24},
    "llama": {**_SMALL, "num_key_value_heads": 1, "max_position_embeddings": 24, "tie_word_embeddings": False},
}  # fmt: skip
SEQUENCE: dict[str, dict[str, Any]] = {
    "bert": {**_SMALL, "max_position_embeddings": 24},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 24},
    "roberta": {**_SMALL, "max_position_embeddings": 26},
}  # fmt: skip


def write_tokenizer(folder: Path, words: Iterable[str], *, around: bool = False) -> int:
    """A tokenizer of words between spaces, and "\\n" at the ends of lines; puts [CLS] and [SEP]
    around a text if asked to. Gives the number of its tokens.
    """
    import tokenizers

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\n", *words]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({token: n for n, token in enumerate(tokens)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(" ", "removed"),
            tokenizers.pre_tokenizers.Split("\n", "isolated"),
        ]
    )
    if around:
        made.post_processor = tokenizers.processors.TemplateProcessing(
            "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return len(tokens)


def save(folder: Path, family: str, words: Iterable[str], classes: int = 0, **changes: Any) -> Any:
    """A network with random weights and a tokenizer in a folder, as transformers saves it: of a
    language model without classes.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    count = write_tokenizer(folder, words, around=bool(classes))
    given = {**(SEQUENCE if classes else CAUSAL)[family], **changes}
    config = transformers.CONFIG_MAPPING[family](
        vocab_size=count, pad_token_id=0, bos_token_id=2, eos_token_id=3, **given
    )
    auto = transformers.AutoModelForCausalLM
    if classes:
        config.num_labels = classes
        auto = transformers.AutoModelForSequenceClassification
    with random.seeded(3, family):
        net = auto.from_config(config).eval()
    net.save_pretrained(folder)
    return net


def change(folder: Path, **values: Any) -> None:
    """Sets keys of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
