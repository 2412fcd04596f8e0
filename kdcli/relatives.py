"""Which methods are like one, by what their files say, without importing torch.

Three things make two methods relatives: they are of one family; they read the same of a network;
or the page of one names the other. The more of them hold, the nearer they are. A page that names a
method counts twice: it says how the two differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kdcli import catalog
from kdcli.catalog import Entry

_MOST = 10  # that are shown
# what `consumes` says in the words of each file, by the first of these that is in a part of it
_READS = {
    "tokens": "tokens",
    "maps of": "maps of all stages",
    "last map": "last map",
    "map": "one map",
    "pooled": "pooled vector",
    "weights of": "teacher's last layer",
    "class": "logits",
    "logits": "logits",
    "superclasses": "classes' hierarchy",
}
# names of methods that are words of English: a page that has them names nothing
_WORDS = frozenset({"at", "hard", "none", "one"})


@dataclass(frozen=True, slots=True)
class Relative:
    """A method that is like another, and why, in words."""

    entry: Entry
    reasons: tuple[str, ...]


def relatives(of: Entry) -> tuple[Relative, ...]:
    """The methods that are most like one, the nearest first; at most ten."""
    found = []
    for other in catalog.entries("method").values():
        if other.name == of.name:
            continue
        same = sorted(_reads(of) & _reads(other))
        named = [
            f"{one.name}'s page names it" if one is other else "named on its page"
            for one, two in ((of, other), (other, of))
            if two.name in _named(one)
        ]
        family = [f"also {of.family}"] if other.family == of.family else []
        reads = [f"also reads {' and '.join(same)}"] if same else []
        score = 2 * len(named) + len(family) + len(reads)
        # logits alone are read by half of all methods: alone they make no relative
        if score > 1 or (reads and same != ["logits"]):
            found.append((-score, other.name, Relative(other, (*named, *family, *reads))))
    return tuple(each for _, _, each in sorted(found, key=lambda item: item[:2])[:_MOST])


def _reads(entry: Entry) -> frozenset[str]:
    """What a method reads of a teacher or of other networks, of labels apart."""
    parts = re.split(r",|;| and ", str(entry.facts.get("consumes") or ""))
    found = (
        next((word for key, word in _READS.items() if key in part), None)
        for part in parts
        if "labels" not in part and "indices" not in part
    )
    return frozenset(word for word in found if word is not None)


def _named(entry: Entry) -> frozenset[str]:
    """The methods that a page names, equations and names of terms apart."""
    prose = " ".join(line for line in entry.doc.splitlines() if not line.startswith("    "))
    said = [each for each in prose.split(". ") if not re.search(r"\bterms?\b", each)]
    words = set(re.findall(r"(?<![\w./])[a-z][a-z0-9_]*(?![\w(/]|'s)", ". ".join(said)))
    return frozenset(words & catalog.entries("method").keys()) - _WORDS
