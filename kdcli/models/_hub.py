"""Hugging Face's hub, where somebody has asked for something of it to be fetched."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from kdcli.errors import NotFound
from kdcli.models._hf_config import first_line


@contextlib.contextmanager
def fetching(repository: str, hint: str) -> Iterator[None]:
    """Within it something of a hub repository is fetched, and what goes wrong is one sentence.

    Args:
        hint: what to do about it, where the hub can be reached.

    Raises:
        NotFound: it cannot be fetched.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import logging as hub

    loud = hub.get_verbosity()
    hub.set_verbosity(logging.ERROR)  # it tells of every attempt
    try:
        yield
    except LocalEntryNotFoundError as error:
        raise NotFound(
            f"{repository} cannot be fetched: nothing leads from here to Hugging Face's hub",
            hint="fetch it where there is a network, and copy the hub's cache or the folder",
        ) from error
    except Exception as error:  # its own, requests', and those of the file system
        raise NotFound(f"{repository} cannot be fetched: {first_line(error)}", hint=hint) from error
    finally:
        hub.set_verbosity(loud)
