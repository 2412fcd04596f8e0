"""`kd models NAME --download`: a network of somebody's hub, into the cache of its library."""

from __future__ import annotations

from typing import Annotated

import typer

from kdcli.cli.console import Environment
from kdcli.errors import UsageError

Download = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Fetch a network of transformers by its hub id, hf/ORG/NAME.",
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
