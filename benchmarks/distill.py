"""Training speed of kd beside a textbook loop and beside the least that the student itself costs.

One process; all configurations take turns, forwards and backwards, so that a slow moment of the
machine meets all of them. README.md beside this file says what each configuration is and what the
ratios must be.

    python -m benchmarks.distill
    python -m benchmarks.distill --pairs fashion-mnist --rounds 7 --batches 32 --threads 2
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks import figures
from benchmarks.figures import Ratio, Segment, in_turn, ratio, spread
from benchmarks.pairs import BATCH, PAIRS, Pair, make_noise, make_teacher, workshop
from benchmarks.segments import (
    Bare,
    Engine,
    Numerics,
    Place,
    distill_recipe,
    fill_with_noise,
    plain_recipe,
    show_choices,
)
from benchmarks.textbook import TRIED_WORKERS, WORKERS, TextbookRuns

NAMES = {
    "live": "kd, live teacher",
    "stored": "kd, stored logits",
    "plain": "kd, student alone",
    "bare": "bare student: the floor",
}


def required(pair: Pair, numerics: Numerics, device: str) -> dict[str, float]:
    """What each ratio must reach; on a GPU something is required of resnet56-resnet20 at the
    automatic settings, with CUDA graphs or without.
    """
    if device == "cuda":
        on_gpu = {
            "live / textbook": 8.0,
            "stored / textbook": 10.0,
            "stored / plain": 0.97,
            "plain / bare": 0.90,
        }
        return on_gpu if pair.teacher == "resnet56" and numerics != "fp32" else {}
    if numerics == "fp32":
        return {"live / textbook": 1.3, "stored / textbook": 1.9}
    return {
        "live / textbook": 3.5,
        "stored / textbook": pair.stored_least,
        "stored / plain": 0.97,
        "plain / bare": 0.90,
    }


def ratios(speeds: Mapping[str, Sequence[float]], least: Mapping[str, float]) -> list[Ratio]:
    """The four ratios of one kind of numerics.

    Args:
        speeds: images/s of each round, of "textbook", "live", "stored", "plain" and "bare". least:
            by the ratio's name.
    """
    pairs = (("live", "textbook"), ("stored", "textbook"), ("stored", "plain"), ("plain", "bare"))
    return [
        ratio(name, speeds[a], speeds[b], least.get(name))
        for a, b in pairs
        for name in (f"{a} / {b}",)
    ]


def kd_segments(
    pair: Pair, place: Place, teacher: Path, numerics: Numerics, batches: int
) -> tuple[dict[str, Segment], dict[str, dict[str, dict[str, str]]]]:
    """Kd's configurations and the floor, by name, and what kd chose for each."""
    live, stored = (
        Engine(distill_recipe(pair, place, numerics, batches=batches, teacher=teacher, cache=cache))
        for cache in ("off", "exact")
    )
    fill_with_noise(stored)
    plain = Engine(plain_recipe(pair, place, numerics, batches=batches))
    engines = {"live": live, "stored": stored, "plain": plain}
    segments: dict[str, Segment] = {
        **{name: engine.segment for name, engine in engines.items()},
        "bare": Bare(plain).segment,
    }
    return segments, {name: engine.choices for name, engine in engines.items()}


def measure(
    pair: Pair, kinds: Sequence[Numerics], *, rounds: int, batches: int, threads: int | None
) -> dict[str, Any]:
    """All rounds of a pair, JSON-able."""
    batches *= pair.longer
    with workshop() as folder:
        noise = make_noise(
            folder / "noise.npz", pair.shape, pair.classes, train=batches * BATCH, test=2 * BATCH
        )
        teacher = make_teacher(pair, noise, folder)
        # first: its workers are forked from a process that is still small
        textbook = TextbookRuns(pair, noise, teacher)
        place = Place(noise.path, threads)
        segments: dict[str, Segment] = textbook.segments()
        chosen: dict[str, Any] = {}
        for numerics in kinds:
            made, chosen[numerics] = kd_segments(pair, place, teacher, numerics, batches)
            segments |= {f"{numerics} {name}": segment for name, segment in made.items()}
        warm_up = {
            name: _seconds(segment)
            for name, segment in segments.items()
            if name not in textbook.segments()
        }
        speeds = in_turn(segments, rounds)
    return {
        "pair": asdict(pair),
        "batches": batches,
        "device": textbook.device.type,
        "workers": {"default": WORKERS, "best": textbook.best, "trial": textbook.speeds},
        "chosen": chosen,
        "configurations": {
            name: {**asdict(spread(values)), "rounds": values, "warm_up_seconds": warm_up.get(name)}
            for name, values in speeds.items()
        },
        "ratios": {
            numerics: _judged(pair, numerics, speeds, textbook.device.type) for numerics in kinds
        },
    }


def _judged(
    pair: Pair, numerics: Numerics, speeds: Mapping[str, Sequence[float]], device: str
) -> dict[str, Any]:
    own = {name: speeds[f"{numerics} {name}"] for name in NAMES}
    rival = max(("textbook default", "textbook best"), key=lambda name: spread(speeds[name]).median)
    return {
        found.name: found.to_json()
        for found in ratios({**own, "textbook": speeds[rival]}, required(pair, numerics, device))
    }


def _seconds(segment: Segment) -> float:
    start = time.perf_counter()
    segment()
    return time.perf_counter() - start


def show(name: str, found: Mapping[str, Any]) -> None:
    """Print what was measured of a pair."""
    workers = found["workers"]
    told = {
        "textbook default": f"textbook, {workers['default']} workers (the field's default)",
        "textbook best": (
            f"textbook, {workers['best']} workers (the best of "
            f"{', '.join(map(str, TRIED_WORKERS))})"
        ),
    }
    print(
        f"{name}, {found['batches']} batches of {BATCH} a segment\n  {'images/s':46}  "
        f"{'median':>8}  {'range':>17}"
    )
    for key, value in found["configurations"].items():
        numerics, _, kind = key.partition(" ")
        label = told.get(key) or f"{numerics}: {NAMES[kind]}"
        print(
            f"  {label:46}  {figures.Spread(value['median'], value['low'], value['high']).show()}"
        )
    print(f"  {'ratio, round by round':46}  {'median':>6}  {'range':>13}  required")
    for numerics, several in found["ratios"].items():
        for title, value in several.items():
            print(
                f"  {f'{numerics}: {title}':46}  "
                f"{Ratio(title, tuple(value['rounds']), value['least']).show()}"
            )
    for numerics, choices in found["chosen"].items():
        print(f"  {numerics} chose: {show_choices(choices['stored'])}")
    print(flush=True)


def arguments() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    kinds = get_args(Numerics)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distill", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--pairs",
        nargs="+",
        choices=PAIRS,
        default=list(PAIRS),
        metavar="PAIR",
        help=f"of {', '.join(PAIRS)}",
    )
    told = (
        "fp32: equal numerics; auto: kd's own choices; graphs: these, with CUDA graphs, on a GPU "
        "(default fp32 auto)"
    )
    parser.add_argument("--numerics", nargs="+", choices=kinds, default=["fp32", "auto"], help=told)
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="timed rounds; what is to be quoted needs five (default 5)",
    )
    parser.add_argument(
        "--batches",
        type=int,
        default=32,
        help=(
            f"batches of {BATCH} a segment, at least 2; fashion-mnist: 8 times as many (default 32)"
        ),
    )
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice unless given")
    parser.add_argument(
        "--json",
        type=Path,
        help="where the numbers go; benchmarks/results/distill.json unless given",
    )
    return parser


def main() -> None:
    """Measure, print and write."""
    options = arguments().parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    facts = figures.machine()
    figures.show_machine(facts)
    print(
        f"{options.rounds} rounds; an untimed segment of each of kd's configurations comes first\n",
        flush=True,
    )
    found: dict[str, Any] = {}
    for name in options.pairs:
        found[name] = measure(
            PAIRS[name],
            options.numerics,
            rounds=options.rounds,
            batches=options.batches,
            threads=options.threads,
        )
        show(name, found[name])
    short = [
        key
        for key in itertools.product(found, options.numerics)
        if any(r["verdict"] == "short" for r in _of(found, *key))
    ]
    print("short of what is required: " + (", ".join(" ".join(key) for key in short) or "nothing"))
    settings = {
        "batch": BATCH,
        "batches": options.batches,
        "rounds": options.rounds,
        "threads": options.threads,
    }
    figures.keep("distill", facts, {"settings": settings, "pairs": found}, options.json)


def _of(found: Mapping[str, Any], pair: str, numerics: str) -> list[dict[str, Any]]:
    return list(found[pair]["ratios"][numerics].values())


if __name__ == "__main__":
    main()
