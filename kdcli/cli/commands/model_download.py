"""--download: a network of somebody's hub, into the cache of its library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdcli.cli.console import Environment
from kdcli.errors import UsageError

if TYPE_CHECKING:
    from kdcli.recipe.schema import Recipe

Download = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Fetch a network of transformers, hf/ORG/NAME, or timm's default weights, timm/NAME.",
    ),
]


def download_model(env: Environment, name: str | None) -> None:
    """Fetches a network and says where it is.

    Raises:
        UsageError: no name, or none of a hub. NotFound: there is none, or no way to it.
    """
    if name is None:
        raise UsageError(
            "--download needs the name of a network", hint="kd models hf/ORG/NAME --download"
        )
    from kdcli import jobs

    env.progress(f"fetching {name}")
    env.report(("✓", "green"), f" {name} is in {jobs.download_model(name)}")


def fetch(env: Environment, recipe: Recipe) -> None:
    """Fetches what a recipe names of a hub and is not here, and says where each is.

    Raises:
        UsageError: a package is missing. NotFound: there is no such network, or no way to it.
    """
    from kdcli import jobs

    for name, weights in jobs.missing_weights(recipe):
        env.progress(f"fetching {name}")
        path = jobs.download_model(name, weights)
        env.report(("✓", "green"), f" {name} is in {path}")
