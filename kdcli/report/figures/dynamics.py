"""The figures of what was probed along training: the student beside its teacher, and beside
whatever else learns, epoch by epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kdcli import formatting
from kdcli.report.figures.palette import ALIGNED_DASH, DASHES, STUDENT, STUDENTS, TEACHER
from kdcli.report.figures.svg import INK, Figure, canvas, epoch_axis, finished, house_style
from kdcli.report.findings.dynamics import FIXED, Moment, course, images, teacher_of
from kdcli.results.dynamics import NetworkSnapshot, Snapshot
from kdcli.runs.read import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

MOST_TEMPERATURES = 3  # more rows of panels than this fill a screen
# an axis whose largest value is more than this factor above where a curve ends is logarithmic
LOG_RANGE = 30.0
LINEAR_WITHIN = 0.1  # gaps within this reach of zero are drawn linearly even then


def figures_of_dynamics(run: Run) -> Iterator[Figure]:
    """The figures of a run; none where nothing was probed."""
    moments = course(run)
    if len(moments) < 2:
        return
    yield energies(moments)
    if any(moment.probe.gaps for moment in moments):
        yield gaps(moments)
    yield norms(moments)
    if any(len(moment.probe.networks) > 1 for moment in moments):
        yield distances(moments)


# ---- figures -------------------------------------------------------------------------------------


def energies(moments: Sequence[Moment]) -> Figure:
    """Mean entropy and free energy of each network, a row of panels a temperature."""
    temperatures = _temperatures(moments)
    with house_style("along-energy"):
        figure = canvas(5.0, 0.5 + 1.9 * len(temperatures))
        panels = figure.subplots(len(temperatures), 2, sharex=True, squeeze=False)
        for row, (place, temperature) in enumerate(temperatures):
            for axes, quantity, title in zip(
                panels[row],
                ("entropy", "free_energy"),
                ("entropy, nats", "free energy"),
                strict=True,
            ):
                _curves(axes, moments, partial(_energy_of, quantity=quantity, place=place))
                axes.set_title(f"{title} · τ = {formatting.temperature(temperature)}")
        notes = _finish(figure, panels, moments)
        caption = (
            "Entropy that falls and free energy that rises are a network growing surer of its "
            "answers."
        )
        if teacher_of(moments[-1].probe):
            caption = "A student that answers as its teacher does meets the dashed lines."
        return finished(
            figure, "along-energy", "along", _energy_title(moments), caption, _basis(moments, notes)
        )


def gaps(moments: Sequence[Moment]) -> Figure:
    """Both gaps between the network in training and the teacher, a row of panels a temperature."""
    temperatures = _temperatures(moments)
    titles = {"entropy": "entropy gap, nats", "free_energy": "free-energy gap"}
    own = _looks(moments)[moments[-1].probe.trained][0]
    forms = {"raw logits": ("-", False), "as the loss sees them": (ALIGNED_DASH, True)}
    with house_style("along-gap"):
        figure = canvas(5.0, 0.5 + 1.9 * len(temperatures))
        panels = figure.subplots(len(temperatures), 2, sharex=True, squeeze=False)
        for row, (_, tau) in enumerate(temperatures):
            for axes, (quantity, title) in zip(panels[row], titles.items(), strict=True):
                for label, (dash, aligned) in forms.items():
                    curve = _by_moment(
                        moments,
                        partial(_gap_of, quantity=quantity, temperature=tau, aligned=aligned),
                        broken=True,
                    )
                    if np.isfinite(curve[1]).any():
                        axes.plot(*curve, linestyle=dash, color=own, label=label)
                axes.axhline(0, color=INK, linewidth=0.6)
                axes.set_title(f"{title} · τ = {formatting.temperature(tau)}")
        notes = _finish(figure, panels, moments)
        caption = (
            "Zero is a student as sure as its teacher; above zero it is less sure, below it surer."
        )
        return finished(
            figure, "along-gap", "along", _gap_title(moments), caption, _basis(moments, notes)
        )


def norms(moments: Sequence[Moment]) -> Figure:
    """Norm of centred logits and accuracy on the same images."""
    with house_style("along-norm"):
        right = formatting.known(moments[-1].probe.networks[moments[-1].probe.trained].accuracy)
        figure = canvas(5.0 if right else 2.5, 2.4)
        panels = figure.subplots(1, 1 + right, squeeze=False)
        _curves(panels[0][0], moments, lambda item: item.logit_norm)
        panels[0][0].set_title("logit norm")
        if right:
            _curves(panels[0][1], moments, lambda item: 100 * (item.accuracy or 0.0))
            panels[0][1].set_title("accuracy, %")
        notes = _finish(figure, panels, moments)
        caption = (
            "Larger logits are surer answers, right or wrong: a norm that goes on rising when "
            "accuracy does not is certainty alone."
        )
        return finished(
            figure, "along-norm", "along", _norm_title(moments), caption, _basis(moments, notes)
        )


def distances(moments: Sequence[Moment]) -> Figure:
    """KL from the other networks' answers to those of the network in training, a panel a
    temperature.
    """
    temperatures = _temperatures(moments)
    with house_style("along-distance"):
        figure = canvas(5.0, 2.4)
        panels = figure.subplots(1, len(temperatures), squeeze=False)
        for axes, (place, temperature) in zip(panels[0], temperatures, strict=True):
            for name, (colour, dash) in _looks(moments).items():
                curve = _by_moment(moments, partial(_kl_from, name=name, place=place), broken=True)
                if np.isfinite(curve[1]).any():
                    axes.plot(
                        *curve,
                        linestyle=dash,
                        color=colour,
                        label=f"from the {name}" if name in FIXED else f"from {name}",
                    )
            axes.set_title(f"KL, nats · τ = {formatting.temperature(temperature)}")
        notes = _finish(figure, panels, moments)
        caption = (
            "The lowest curve is whose answers are nearest to those of the network in training, "
            "and easiest to follow at that time."
        )
        return finished(
            figure,
            "along-distance",
            "along",
            _distance_title(moments),
            caption,
            _basis(moments, notes),
        )


# ---- what they find ------------------------------------------------------------------------------


def _basis(moments: Sequence[Moment], notes: str) -> str:
    return (
        f"Means over {images(moments[-1].probe)}, before the first step and after each epoch, "
        f"without intervals.{notes}"
    )


def _ends(moments: Sequence[Moment]) -> tuple[Snapshot, Snapshot]:
    """The first and the last probe of the network that the run is about."""
    last = moments[-1].probe
    return next(moment.probe for moment in moments if moment.probe.trained == last.trained), last


def _energy_title(moments: Sequence[Moment]) -> str:
    _, last = _ends(moments)
    end = formatting.number(last.networks[last.trained].at[0].entropy)
    teacher = teacher_of(last)
    beside = (
        f", that of the {teacher} is {formatting.number(last.networks[teacher].at[0].entropy)}"
        if teacher
        else ""
    )
    return f"The {last.trained}'s entropy ended at {end} nats{beside}"


def _gap_title(moments: Sequence[Moment]) -> str:
    first, last = ([gap for gap in probe.gaps if not gap.aligned] for probe in _ends(moments))
    if not first or not last:
        return "Gaps to the teacher, epoch by epoch"
    went = (
        f"from {formatting.signed(first[0].entropy)} to {formatting.signed(last[0].entropy)} nats"
    )
    return f"The entropy gap went {went} at τ = {formatting.temperature(last[0].temperature)}"


def _norm_title(moments: Sequence[Moment]) -> str:
    _, last = _ends(moments)
    teacher = teacher_of(last)
    beside = (
        f", those of the {teacher} are {formatting.number(last.networks[teacher].logit_norm, 1)}"
        if teacher
        else ""
    )
    return (
        f"The {last.trained}'s logits ended "
        f"{formatting.number(last.networks[last.trained].logit_norm, 1)} long{beside}"
    )


def _distance_title(moments: Sequence[Moment]) -> str:
    first, last = _ends(moments)
    teacher = teacher_of(last)
    if teacher is None or teacher not in first.networks:
        return "Distance to the answers of others, epoch by epoch"
    ends = (formatting.number(probe.networks[teacher].at[0].kl) for probe in (first, last))
    return f"KL to the {teacher}'s answers went from {' to '.join(ends)} nats"


# ---- panels --------------------------------------------------------------------------------------


def _temperatures(moments: Sequence[Moment]) -> list[tuple[int, float]]:
    """Place and value of the temperatures that are drawn."""
    probe = moments[0].probe
    return list(enumerate(at.temperature for at in probe.networks[probe.trained].at))[
        :MOST_TEMPERATURES
    ]


def _looks(moments: Sequence[Moment]) -> dict[str, tuple[str, object]]:
    """Networks by name, the teacher first, with colour and dashes. One that learns from labels
    alone is a teacher to be.
    """
    names = dict.fromkeys(name for moment in moments for name in moment.probe.networks)
    fixed = [name for name in FIXED if name in names]
    known: dict[str, tuple[str, object]] = dict.fromkeys(fixed, (TEACHER, "-"))
    known |= {name: (STUDENT, "-") for name in ("student", "network") if name in names}
    if not fixed and "network" in names:
        known["network"] = (TEACHER, "-")
    others = [name for name in names if name not in known]
    return known | {
        name: (STUDENTS[1 + number % (len(STUDENTS) - 1)], DASHES[(1 + number) % len(DASHES)])
        for number, name in enumerate(others)
    }


def _by_moment(
    moments: Sequence[Moment], value: Callable[[Snapshot], float | None], *, broken: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A curve: epochs, and values that are NaN where there is none. broken: where another network
    takes its turn in training.
    """
    values = [value(moment.probe) for moment in moments]
    curve = (
        np.array([moment.epochs for moment in moments], float),
        np.array([np.nan if each is None else each for each in values], float),
    )
    turns = (
        [
            at
            for at in range(1, len(moments))
            if moments[at].probe.trained != moments[at - 1].probe.trained
        ]
        if broken
        else []
    )
    return np.insert(curve[0], turns, np.nan), np.insert(curve[1], turns, np.nan)


def _curves(
    axes: Axes, moments: Sequence[Moment], value: Callable[[NetworkSnapshot], float]
) -> None:
    """A curve for each network that learns, a level for the teacher."""
    for name, (colour, dash) in _looks(moments).items():
        curve = _by_moment(moments, partial(_value_of, name=name, value=value))
        if name in FIXED:
            axes.axhline(curve[1][-1], color=colour, linestyle="--", linewidth=1.2, label=name)
        else:
            axes.plot(*curve, linestyle=dash, color=colour, label=name)


def _value_of(
    probe: Snapshot, name: str, value: Callable[[NetworkSnapshot], float]
) -> float | None:
    return value(probe.networks[name]) if name in probe.networks else None


def _energy_of(item: NetworkSnapshot, quantity: str, place: int) -> float:
    value: float = getattr(item.at[place], quantity)
    return value


def _gap_of(probe: Snapshot, quantity: str, temperature: float, *, aligned: bool) -> float | None:
    return next(
        (
            getattr(gap, quantity)
            for gap in probe.gaps
            if (gap.temperature, gap.aligned) == (temperature, aligned)
        ),
        None,
    )


def _kl_from(probe: Snapshot, name: str, place: int) -> float | None:
    item = probe.networks.get(name)
    return item.at[place].kl if item is not None else None


def _spread_out(axes: Axes) -> str:
    """Makes an axis logarithmic where a linear one would show the first epochs and nothing after
    them; says so if it did.
    """
    drawn = [np.asarray(line.get_ydata(), float) for line in axes.lines]
    finite = [values[np.isfinite(values)] for values in drawn if np.isfinite(values).any()]
    ends = [abs(values[-1]) for values in finite if values[-1]]
    if not ends or max(np.abs(values).max() for values in finite) <= LOG_RANGE * min(ends):
        return ""
    signed = min(values.min() for values in finite) <= 0
    if signed:
        axes.set_yscale("symlog", linthresh=LINEAR_WITHIN)
    else:
        axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    return f" Wide axes are logarithmic{f', beyond ±{LINEAR_WITHIN:g}' if signed else ''}."


def _finish(figure: Canvas, panels: np.ndarray, moments: Sequence[Moment]) -> str:
    """Epochs below, a dotted line where a stage after the first begins, one legend above all;
    returns what a caption must explain.
    """
    firsts = {moment.stage: float(moment.epochs) for moment in reversed(moments)}
    later = sorted(firsts.values())[1:]
    scales = [_spread_out(axes) for axes in panels.flat]
    for axes in panels.flat:
        epoch_axis(axes, [(start, "") for start in later])
    for axes in panels[:-1].flat:
        axes.set_xlabel("")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    return max(scales, key=len) + (" Dotted: a stage begins." if later else "")
