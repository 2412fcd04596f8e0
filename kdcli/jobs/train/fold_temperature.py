"""A temperature fitted on held-out images once training is over, and folded into the network.

A loss that sees logits only after they were normalised leaves their scale free, so that their
softmax is no probability. The scale that explains the held-out labels best is divided out of the
weights and bias of the last layer: what is measured, saved and used from then on has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdcli.analysis.temperature_scaling import fit_temperature
from kdcli.core.network import Network
from kdcli.core.types import Output
from kdcli.engine.evaluator import evaluating
from kdcli.errors import BadData
from kdcli.jobs.build.header import architecture
from kdcli.jobs.build.job import Job
from kdcli.jobs.train.asking import network_answers
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
    if "val" in job.feed.info.bare:
        return FoldedTemperature(None, n, f"the {n} held-out images have no labels to fit it to")
    logits, targets, *_ = network_answers(job, network, "val")
    try:
        fit = fit_temperature(logits, targets, label="the network")
    except BadData as error:  # what cannot be measured either is refused by the test split
        return FoldedTemperature(None, n, error.message)
    if fit.edge == "cold":
        return FoldedTemperature(None, n, f"all {n} held-out images are classified rightly")
    if fit.edge == "hot":
        return FoldedTemperature(None, n, f"the {n} held-out images are answered as by chance")
    if not _folded(job, network, fit.temperature):
        why_not = f"the logits of {architecture(network)} are not what a last linear layer gives"
        return FoldedTemperature(None, n, why_not)
    return FoldedTemperature(fit.temperature, n)


def _folded(job: Job, network: Network, temperature: float) -> bool:
    """Divides the last layer; False, and nothing is changed, where that does not divide the
    logits.
    """
    if not (heads := network.linear_heads()):
        return False
    parameters = [parameter.detach() for head in heads for parameter in head.parameters()]
    kept = [parameter.clone() for parameter in parameters]
    image = job.runtime.place(next(iter(job.feed.split("val")))).x
    before = _ask(network, image)
    torch._foreach_div_(parameters, temperature)
    network.logits_divided(temperature)
    after = _ask(network, image)
    if torch.allclose(after * temperature, before, rtol=0, atol=_AGREE * float(before.abs().max())):
        return True
    torch._foreach_copy_(parameters, kept)
    network.logits_divided(1 / temperature)
    return False


def _ask(network: Network, image: Tensor) -> Tensor:
    # as in an evaluation: a compiled network is not compiled once more
    with evaluating(network), torch.inference_mode():
        found: Output = network(image)
        return found.logits.float()
