"""A temperature fitted on held-out images once training is over, and folded into the network.

A loss that sees logits only after they were normalised leaves their scale free, so that their
softmax is no probability. The scale that explains the held-out labels best is divided out of the
weights and bias of the last layer: what is measured, saved and used from then on has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdcli.analysis.temperature_scaling import fit_temperature
from kdcli.core.network import Network
from kdcli.engine.evaluator import evaluating
from kdcli.errors import BadData
from kdcli.jobs.build.header import architecture
from kdcli.jobs.build.job import Job
from kdcli.jobs.train.final_evaluation import network_logits
from kdcli.results.run import FoldedTemperature

_AGREE = 1e-3  # of the largest logit: bfloat16 before the last layer rounds alike both times


def fold_temperature(job: Job, network: Network) -> FoldedTemperature | None:
    """Divides the logits of a run's result, in place, by the temperature that fits its held-out
    images best; None where the recipe and its method do not want it.

    No epoch is left to train: nothing that a resumed run reads is changed.
    """
    wanted = job.recipe.train.calibrate
    if wanted == "off" or (wanted == "auto" and not job.method.scale_free):
        return None
    n = job.feed.size("val")
    if n == 0:
        return FoldedTemperature(None, 0, "no image is held out: set data.val_fraction")
    logits, targets = network_logits(job, network, "val")
    try:
        fit = fit_temperature(logits, targets, label="the network")
    except BadData as error:  # what cannot be measured either is refused by the test split
        return FoldedTemperature(None, n, error.message)
    if fit.edge == "cold":
        return FoldedTemperature(None, n, f"all {n} held-out images are classified rightly")
    if fit.edge == "hot":
        return FoldedTemperature(None, n, f"the {n} held-out images are answered as by chance")
    if not _folded(job, network, fit.temperature):
        return FoldedTemperature(
            None, n, f"the last layer of {architecture(network)} is not linear"
        )
    return FoldedTemperature(fit.temperature, n)


@torch.no_grad()
def _folded(job: Job, network: Network, temperature: float) -> bool:
    """Divides the last layer; False, and nothing is changed, where that does not divide the
    logits.
    """
    if not (heads := network.linear_heads()):
        return False
    image = job.runtime.place(next(iter(job.feed.split("val")))).x
    with evaluating(network):
        before = network(image).logits.float()
        kept = [parameter.clone() for parameter in _parameters(heads)]
        torch._foreach_div_(_parameters(heads), temperature)
        after = network(image).logits.float()
    if torch.allclose(after * temperature, before, rtol=0, atol=_AGREE * float(before.abs().max())):
        return True
    torch._foreach_copy_(_parameters(heads), kept)
    return False


def _parameters(heads: Sequence[nn.Linear]) -> list[Tensor]:
    return [parameter for head in heads for parameter in head.parameters()]
