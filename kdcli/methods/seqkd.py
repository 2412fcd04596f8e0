"""Sequence-level distillation: the teacher's own continuations as training text

Paper: Y. Kim, A. M. Rush, Sequence-level knowledge distillation, EMNLP 2016, arXiv:1606.07947,
section 3.2.
Reference code: none was read.

    L = (1 - w) CE(z, y) + w CE(z', y')

where y' is what the teacher writes. Of each window of a text the first part, `prompt` of it, stays,
and the teacher goes on token by token; z' are the student's logits of what it wrote, given all
before it. A picture, or a text with one class, is a sequence of one: y' is its class, drawn from
the teacher's answer.

Tokens are drawn at `temperature`, anew in each epoch, as a function of seed, epoch and place; or
they are the likeliest ones (draw = "likeliest"). A teacher that remembers what it read is asked
once a token; one that does not reads the window again for each, which costs the square of its
length.

Differs from the paper: it translates, and takes the best of a beam search over whole sentences; a
language model has no source, and goes on from real text. The data's own text keeps a share, which
is the paper's mixture with the loss on the data (section 4.2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional

from kdcli import losses
from kdcli.core import random
from kdcli.core.carried import Carried
from kdcli.core.method import Arity, Method, MethodOptions
from kdcli.core.teacher import Ensemble
from kdcli.core.types import Batch, Progress, Step

FAMILY = "logit"


class Options(MethodOptions):
    """Options of sequence-level distillation."""

    weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of what the teacher writes; the data's own has the rest.",
    )
    prompt: float = Field(
        0.5, gt=0, lt=1, description="Share of a window of text that the teacher goes on from."
    )
    draw: Literal["sample", "likeliest"] = Field(
        "sample", description="Draw the teacher's tokens, or take the likeliest."
    )
    temperature: PositiveFloat = Field(
        1.0, description="At which they are drawn; below 1 the likely ones come more often."
    )


class SequenceDistillation(Method):
    """Trains the student on labels and on what the teacher writes."""

    options: Options
    teachers = Arity(1, None)
    consumes = "teacher's tokens"
    cacheable = True
    writes_on = True

    def loss(self, batch: Batch, at: Progress) -> Step:
        weight = self.options.weight
        z = self.student(batch.x).logits
        if batch.window is None:
            seen = z
            written = self._drawn(self.teacher(batch).logits, batch.index, at)
        else:
            seen, written = self._continued(batch, at)
        seq = functional.cross_entropy(
            seen.to(torch.promote_types(seen.dtype, torch.float32)), written
        )
        ce = losses.cross_entropy(z, batch.y)
        return Step({"ce": (1 - weight) * ce, "seqkd": weight * seq}, z)

    def _continued(self, batch: Batch, at: Progress) -> tuple[Tensor, Tensor]:
        """The student's logits [M,K] of the tokens that the teacher wrote, and these [M]."""
        tokens = batch.x.flatten(1)  # [B,L]
        rows, length = tokens.shape
        prompt = min(max(round(self.options.prompt * length), 1), length)
        index = batch.index.view(rows, length)  # of the token behind each place
        text, fed, carried = tokens[:, :prompt], tokens[:, :prompt], Carried()
        remembers = False
        for place in range(prompt, length + 1):
            number = place - prompt if remembers else 0
            asked = replace(batch, x=fed[:, None, None], window=number)
            with carried.window(asked):
                v = self.teacher(asked).logits
            last = v.view(rows, fed.shape[1], -1)[:, -1]
            token = self._drawn(last, index[:, place - 1], at)[:, None]
            text = torch.cat([text, token], dim=1)  # [B,place + 1]
            # several teachers read the whole again: one of them may remember nothing
            remembers = bool(carried.state()) and not isinstance(self.teacher, Ensemble)
            fed = token if remembers else text
        with Carried().window(replace(batch, window=0)):  # it begins, and the real text goes on
            logits = self.student(text[:, None, None, :length]).logits.view(rows, length, -1)
        return logits[:, prompt - 1 :].flatten(0, 1), text[:, prompt:].flatten()

    def _drawn(self, v: Tensor, index: Tensor, at: Progress) -> Tensor:
        """Classes [B] drawn from the teacher's answers [B,K], or their likeliest."""
        if self.options.draw == "likeliest":
            return v.argmax(dim=1)
        # the first class at which the sum of probabilities passes a uniform draw
        p = (v.double() / self.options.temperature).softmax(dim=1).cumsum(dim=1)
        draws = random.uniform(random.key(self.seed, "seqkd", at.epoch), index)
        reached = torch.searchsorted(p, draws.double()[:, None], right=True).squeeze(1)
        return reached.clamp(max=v.shape[1] - 1)
