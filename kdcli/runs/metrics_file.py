"""metrics.jsonl, line by line: each carries its number and a digest, so that a line that was damaged
or lost is noticed, and a line that a kill cut off is no damage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.files import MAX_JSON_BYTES, finite, parse_json, read_bytes, sha256_json

DIGEST = "digest"  # of all else in the line
_DIGITS = 16  # of a digest: against accidents, not against somebody who signs what he writes


@dataclass(frozen=True, slots=True)
class MetricsFile:
    """What a metrics.jsonl holds. events: with the line that each was read from.

    torn: whether the last line was cut off. damaged: lines that are not what was written, or gone;
    lines of a kd before there were digests are believed.
    """

    events: tuple[tuple[dict[str, Any], str], ...] = ()
    torn: bool = False
    damaged: int = 0


def written_line(content: Mapping[str, Any]) -> str:
    """A line of metrics.jsonl: the content, JSON-able, and its digest."""
    known = finite(dict(content))
    return json.dumps({**known, DIGEST: _digest(known)}, allow_nan=False)


def read_metrics(path: Path) -> MetricsFile:
    """The events of a metrics.jsonl, none where there is no file."""
    if not path.exists():
        return MetricsFile()
    text = read_bytes(path, MAX_JSON_BYTES).decode(errors="replace")
    lines = text.splitlines()
    found = [(_event(line), line) for line in lines]
    torn = bool(lines) and found[-1][0] is None and not text.endswith("\n")
    events = tuple((event, line) for event, line in found if event is not None)
    unreadable = len(lines) - len(events) - torn
    numbers = [event["line"] for event, _ in events if DIGEST in event]
    gone = max(numbers, default=0) - len(set(numbers))
    return MetricsFile(events, torn, max(unreadable, gone))


def _event(line: str) -> dict[str, Any] | None:
    """The object of a line; None where it is not what was written."""
    try:
        event = parse_json(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    if DIGEST not in event:
        return event
    content = {key: value for key, value in event.items() if key != DIGEST}
    whole = event[DIGEST] == _digest(content) and type(event.get("line")) is int
    return event if whole else None


def _digest(content: Mapping[str, Any]) -> str:
    return sha256_json(content)[:_DIGITS]
