"""A recipe's Python files: the user's may run, and a stranger's are refused before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kdcli.recipe.resolve import Resolved
from kdcli.trust import refuse, trusting


@contextmanager
def trusted_recipe(*recipes: Resolved, trust: bool) -> Iterator[None]:
    """Within it the Python files that the user has named in some recipes may run.

    Args:
        trust: so may all others.

    Raises:
        Untrusted: it is not, and a recipe needs a file of a stranger's.
    """
    own = [file for resolved in recipes for file in resolved.own_files]
    with trusting(own, everything=trust):
        for resolved in recipes:
            refuse(resolved.strangers)
        yield
