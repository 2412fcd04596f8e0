"""Sweeps that ship, and few cells of each that stand for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdcli.recipe import shipped
from kdcli.recipe.sweep.cells import Cell, Sweep, load_sweep


def sweep_of(item: shipped.Shipped) -> Sweep:
    """A shipped sweep. Of ImageNet's pictures the path is given, which has no default."""
    imagenet = load_sweep(item.path).base.parent.name == "imagenet"
    return load_sweep(item.path, sets=["data.path=pictures"] if imagenet else ())


def covering(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Cells that have every value of every axis among them, as few as moving along all axes at once
    comes to.
    """
    left = {point for cell in cells for point in cell.labels.items()}
    while left:
        cell = max(cells, key=lambda each: len(left & each.labels.items()))
        left -= cell.labels.items()
        yield cell
