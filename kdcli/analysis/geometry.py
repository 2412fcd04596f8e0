"""The geometry of the last hidden layer: a projection on three classes, t-SNE, and how separate
classes are.

Features are the vector h that feeds the last layer (the tap "pooled"). Samples are drawn by
counters, so that a picture depends on the seed and the split alone; every class gives as many as it
has, up to a limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdcli.core import random
from kdcli.errors import BadData, Incompatible, UsageError
from kdcli.results.intervals import Estimate
from kdcli.results.teacher import ClassProjection, Embedding, Points, Silhouette

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
# points of t-SNE and silhouette: distances between all of them are 32 MB, and a picture shows
# no more
_MOST = 2000
TSNE_STEPS = 1000


def sample_of_each_class(targets: Tensor, most: int, *, seed: int, purpose: str) -> Tensor:
    """Up to `most` samples of each class at random, [m] int64 positions in ascending order.

    Which ones depends on (seed, purpose, n, targets) alone.

    Args:
        targets: [n] int64.
        most: at least 1.
        seed: of the draw.
        purpose: draws of different purposes are independent.
    """
    order = random.permutation(random.key(seed, purpose), len(targets))
    order = order[targets[order].argsort(stable=True)]
    count = torch.bincount(targets)
    place = torch.arange(len(targets)) - (count.cumsum(0) - count)[targets[order]]
    return order[place < most].sort().values


def _sample_all(targets: Tensor, most: int, *, seed: int, purpose: str) -> Tensor:
    """About `most` samples over all classes, the same number of each that has as many, and never
    fewer than five.
    """
    present = int((torch.bincount(targets) > 0).sum())
    return sample_of_each_class(targets, max(5, most // present), seed=seed, purpose=purpose)


def check_features(features: Tensor, targets: Tensor, *, label: str = "the network") -> None:
    """Refuses features that no geometry can be made of.

    Args:
        features: [n,D] floating point.
        targets: [n] int64, classes from 0.
        label: what messages call the network.

    Raises:
        Incompatible: shapes that do not fit each other.
        BadData: no samples, or features that are NaN or infinite; names the first sample.
    """
    if features.ndim != 2 or targets.ndim != 1 or len(features) != len(targets):
        shapes = f"{list(features.shape)} for targets of shape {list(targets.shape)}"
        raise Incompatible(f"{label} has features of shape {shapes}, not [n, D] for [n]")
    if len(features) == 0:
        raise BadData(
            f"there are no samples to measure {label} on", hint="choose a split that has some"
        )
    finite = torch.isfinite(features).all(dim=1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise BadData(
            f"features of {label} are not finite for {int((~finite).sum())} of "
            f"{len(features)} samples, first for sample {first} "
            "(counted from 0)",
            hint=(
                "its training has diverged, or its input has: train it again with a lower "
                "optim.lr, and check that picture"
            ),
        )


# ---- three classes -------------------------------------------------------------------------------


def choose_classes(
    response: Tensor, class_names: Sequence[str]
) -> tuple[tuple[int, int, int], str]:
    """The three classes most worth a look, and why, in words.

    They are the pair that the network confuses most, and the class nearest to both. Confusion of a
    pair is the sum of both mean similarity labels, what the samples of each give to the other;
    nearness to both the sum of the confusions with each. The paper takes any three; these show
    most.

    Args:
        response: mean probabilities [K,K], row the true class:
            `similarity`'s mean_response at a temperature.
        class_names: K names.

    Raises:
        Incompatible: fewer than three classes, or names for another number of them.
    """
    classes = len(response)
    if classes < 3 or response.shape != (classes, classes) or len(class_names) != classes:
        shape = f"{list(response.shape)} and {len(class_names)} names"
        raise Incompatible(
            "three classes are chosen from mean responses [K, K] of three or more and their "
            f"names, got {shape}"
        )
    confusion = (response + response.T).double().fill_diagonal_(-torch.inf)
    a, b = divmod(int(confusion.argmax()), classes)
    c = int((confusion[a] + confusion[b]).argmax())
    share = confusion[a, b].item()
    why = (
        f"{class_names[a]} and {class_names[b]} are the pair that is confused most (their "
        "mean similarity labels add up to "
        f"{share:.3g}), {class_names[c]} is the class nearest to both"
    )
    return (a, b, c), why


def project(
    features: Tensor,
    targets: Tensor,
    weight: Tensor,
    classes: tuple[int, int, int],
    *,
    most: int = 300,
    seed: int = 0,
    chosen: str = "given",
    label: str = "the network",
) -> ClassProjection:
    """Samples of three classes on the plane through their rows of the last layer's weight.

        x = (h - w_a) . e1,   y = (h - w_a) . e2,   e1, e2 = orthonormal basis of (w_b - w_a, w_c -
        w_a)

    Source: Müller, Kornblith and Hinton 2019, When does label smoothing help?, section 2, as used
    by paper 001, figures 5 and 7: tight clusters go with a response that has lost its similarity
    labels. e1 points from w_a to w_b, and w_c lies above that line.

    Args:
        features: h [n,D].
        targets: [n] int64.
        weight: of the last layer, [K,D].
        classes: a, b, c.
        most: samples of each class, drawn at random; the paper's 300.
        seed: of the draw.
        chosen: why these classes; recorded.
        label: what messages call the network.

    Raises:
        Incompatible: shapes that do not fit, or weight rows on one line.
        UsageError: classes that are not three different ones that there are.
        BadData: features that are not finite; a class without samples; centres in one place.
    """
    check_features(features, targets, label=label)
    _check_plane(features, weight, classes, label)
    a, b, c = classes
    rows, targets = weight.detach().double().cpu(), targets.cpu()
    basis = _basis(rows[a], rows[b], rows[c], label, classes)
    eligible = torch.isin(targets, torch.tensor(classes)).nonzero().flatten()
    sample = eligible[
        sample_of_each_class(targets[eligible], most, seed=seed, purpose="projection")
    ]
    member = targets[sample][:, None] == torch.tensor(classes)  # [m,3]
    missing = [
        number for number, n in zip(classes, member.sum(dim=0).tolist(), strict=True) if not n
    ]
    if missing:
        raise BadData(
            f"class {missing[0]} has no samples to project",
            hint="choose three classes that the split has",
        )
    xy = (features[sample.to(features.device)].double().cpu() - rows[a]) @ basis
    centres, spread = _spread(xy, member.double(), label)
    return ClassProjection(
        classes=classes,
        chosen=chosen,
        n=tuple(member.sum(dim=0).tolist()),
        points=_points(sample, targets[sample], xy),
        templates=tuple((x, y) for x, y in ((rows[list(classes)] - rows[a]) @ basis).tolist()),
        centres=tuple((x, y) for x, y in centres.tolist()),
        spread=spread,
    )


def _check_plane(
    features: Tensor, weight: Tensor, classes: tuple[int, int, int], label: str
) -> None:
    if weight.ndim != 2 or weight.shape[1] != features.shape[1]:
        raise Incompatible(
            f"the last layer of {label} has weights of shape {list(weight.shape)} for "
            f"features of shape {list(features.shape)}, "
            "not [K, D] for [n, D]"
        )
    if len(set(classes)) != 3 or not all(0 <= number < len(weight) for number in classes):
        raise UsageError(
            f"a projection takes three different classes from 0 to {len(weight) - 1}, got "
            f"{', '.join(map(str, classes))}"
        )


def _basis(a: Tensor, b: Tensor, c: Tensor, label: str, classes: tuple[int, int, int]) -> Tensor:
    """An orthonormal basis [D,2] float64 of the plane through rows a, b, c [D] of a weight."""
    edges = torch.stack((b - a, c - a), dim=1)
    if edges.shape[0] >= 2:
        q, r = torch.linalg.qr(edges)
        corner: Tensor = r.diagonal()
        if bool((corner.abs() > 1e-9 * edges.abs().amax()).all()):
            return torch.mul(q, corner.sign())  # QR leaves the signs open
    names = ", ".join(map(str, classes))
    raise Incompatible(
        f"the weight rows of classes {names} in {label} lie on one line and span no plane",
        hint="choose other classes",
    )


def _spread(xy: Tensor, member: Tensor, label: str) -> tuple[Tensor, Estimate]:
    """Centres [3,2] and the spread of points xy [m,2] in classes member [m,3], 0 or 1.

    The spread is the mean within-class variance over the mean squared distance of centres. Its
    standard error is that of the influence function, class sizes given.
    """
    n = member.sum(dim=0)
    centres = member.T @ xy / n[:, None]
    off = xy - member @ centres  # [m,2]
    within = member.T @ off.square().sum(dim=1) / n  # [3]
    others = 3 * centres - centres.sum(dim=0)  # sum of the differences to the two others
    between = (centres * others).sum() / 3  # mean of the three squared distances
    if not between > 1e-18 * (within.sum() + centres.square().sum()):
        raise BadData(
            f"features of {label} do not differ between these classes: their centres are in "
            "one place"
        )
    spread = within.mean() / between
    # d spread = (d within / 3 - spread d between) / between; d between = 2 / 3 others . d centre
    influence = (off.square().sum(dim=1) - member @ within) / 3 - spread * 2 / 3 * (
        (member @ others) * off
    ).sum(dim=1)
    error = ((member.T @ (influence / between).square()) / n.square()).sum().sqrt()
    return centres, _estimate(spread.item(), error.item(), least=0.0)


def _estimate(value: float, error: float, *, least: float) -> Estimate:
    """With a normal 95 % interval from a standard error, cut off below `least`."""
    return Estimate(value, max(least, value - _Z95 * error), value + _Z95 * error)


def _points(sample: Tensor, labels: Tensor, xy: Tensor) -> Points:
    x, y = xy.T.tolist()
    return Points(tuple(sample.tolist()), tuple(labels.tolist()), tuple(x), tuple(y))


# ---- all classes ---------------------------------------------------------------------------------


def _sampled_features(
    features: Tensor, targets: Tensor, most: int, seed: int, label: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(positions [m], features [m,D] float64 less their mean, labels [m]), on the CPU. The same
    ones for every picture.
    """
    check_features(features, targets, label=label)
    sample = _sample_all(targets.cpu(), most, seed=seed, purpose="features")
    h = features[sample.to(features.device)].double().cpu()
    h = h - h.mean(dim=0)
    if len(h) < 5:
        raise BadData(
            f"there are {len(h)} samples of {label}, and a picture takes at least 5",
            hint="choose a split that has more",
        )
    if not h.abs().amax() > 0:
        raise BadData(
            f"features of {label} are constant: the same for each of {len(h)} samples",
            hint="this network has learned nothing",
        )
    return sample, h, targets.cpu()[sample]


def tsne(
    features: Tensor,
    targets: Tensor,
    *,
    most: int = _MOST,
    perplexity: float = 30.0,
    seed: int = 0,
    label: str = "the network",
) -> Embedding:
    """t-SNE of features [n,D] in two dimensions (paper 003, figure 5); scikit-learn's defaults,
    started from PCA, a fixed seed.

    Neither distances between clusters nor their sizes mean anything in it: `silhouette` is measured
    on the features. Takes about ten seconds for 2,000 points.

    Args:
        features: h [n,D].
        targets: [n] int64.
        most: points over all classes, at least five of each.
        perplexity: lowered to a third of the points where there are few; comes back.
        seed: of the draw and of t-SNE.
        label: what messages call the network.

    Raises:
        Incompatible, BadData: see `check_features`; fewer than five samples, or features that are
            all the same.
        UsageError: perplexity is not above 0.
    """
    if not (perplexity > 0 and math.isfinite(perplexity)):
        raise UsageError(f"the perplexity of t-SNE must be a number above 0, got {perplexity}")
    from sklearn.manifold import TSNE

    sample, h, labels = _sampled_features(features, targets, most, seed, label)
    width = min(perplexity, (len(h) - 1) / 3)
    state = random.key(seed, "tsne") % (1 << 32)
    h = h / h.abs().amax()  # t-SNE is blind to scale, its arithmetic in float32 is not
    found = TSNE(
        perplexity=width,
        init="pca" if h.shape[1] > 1 else "random",
        random_state=state,
        max_iter=TSNE_STEPS,
    ).fit_transform(h.numpy())
    return Embedding(
        "tsne", len(features), _points(sample, labels, torch.from_numpy(found)), perplexity=width
    )


def silhouette(
    features: Tensor,
    targets: Tensor,
    *,
    classes: int | None = None,
    most: int = _MOST,
    seed: int = 0,
    label: str = "the network",
) -> Silhouette:
    """How separate classes are in features [n,D]: mean over samples of the silhouette coefficient
    with Euclidean distances.

        s = (b - a) / max(a, b),   a = mean distance to the others of its class, b = least mean
        distance to those of another class

    Source: Rousseeuw 1987, Silhouettes. s = 0 for a sample alone in its class, and where a = b = 0.
    Over the samples drawn, as in `tsne`: about `most`, the same number of each class that has as
    many.

    Args:
        features: h [n,D].
        targets: [n] int64.
        classes: K, for by_class; the largest label + 1 if None.
        most: samples over all classes, at least five of each.
        seed: of the draw.
        label: what messages call the network.

    Raises:
        Incompatible, BadData: as `tsne`; fewer than two classes with samples.
    """
    _, h, y = _sampled_features(features, targets, most, seed, label)
    number = max(int(y.max()) + 1, classes or 0)
    count = torch.bincount(y, minlength=number)
    if int((count > 0).sum()) < 2:
        raise BadData(
            f"samples of {label} are of one class, and how separate classes are takes two",
            hint="choose another split",
        )
    from sklearn.metrics import silhouette_samples

    s = torch.from_numpy(silhouette_samples(h.numpy(), y.numpy()))
    error = (s.var(unbiased=True) / len(s)).sqrt().item()
    value = s.mean().item()
    sums = torch.bincount(y, weights=s, minlength=number).tolist()
    by_class = tuple(
        total / n if n else None for total, n in zip(sums, count.tolist(), strict=True)
    )
    interval = Estimate(value, max(-1.0, value - _Z95 * error), min(1.0, value + _Z95 * error))
    return Silhouette(interval, len(h), len(features), by_class)
