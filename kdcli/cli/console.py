"""The world outside the process: streams, terminal, verbosity. One object holds it, and tests put
another in its place.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from kdcli import __version__, clean
from kdcli.cli.text import LEAST_COLUMNS, shorten, terminal_columns
from kdcli.errors import Terminated, UsageError
from kdcli.surroundings import started_rank

if TYPE_CHECKING:
    from rich.console import Console

Part = str | tuple[str, str]
"""A piece of a line: text, or text and its rich style."""

# commands that several processes do together
TRAINING = frozenset({"train-teacher", "distill", "resume"})
PIPE_WIDTH = 10_000  # columns of what is no terminal: nothing is wrapped or cut there

_ASCII = str.maketrans(
    {
        **dict(zip("✓✗·×−–—━╸─│╭‖≈→∞", "+x-x---=--|,|~>8", strict=True)),
        **dict(zip("▁▂▃▄▅▆▇█", ".:-=+*#@", strict=True)),
        "≤": "<=",
        "≥": ">=",
        "τ": "tau",
        "Σ": "sum",
        "Δ": "d",
        "²": "2",
        "…": "...",
        "≪": "<<",
        "±": "+-",
    }
)


def to_ascii(text: str) -> str:
    """The same text for a terminal without UTF-8: every sign that kd draws has a plain stand-in."""
    return text.translate(_ASCII)


class _Stream:
    """A text stream that survives a reader who has gone (`kd methods | head`), a full disk, and an
    encoding that lacks a sign. What is written after a failure is dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._broken = False
        self.before: Callable[[], None] | None = None  # what is done before the next text
        self.failure = ""  # why it could not be written to; a reader who has gone is no failure
        self.unicode = (
            (getattr(stream, "encoding", None) or "utf-8")
            .lower()
            .replace("-", "")
            .startswith("utf")
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self.before is not None:
            self.before()
        # it keeps numbers and units together on pages; here it would defeat grep
        text = text.replace("\N{NO-BREAK SPACE}", " ")
        if not text.isascii():  # bytes in names of files that are no UTF-8
            text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        if not self.unicode:
            text = (
                to_ascii(text)
                .encode(self._stream.encoding, "replace")
                .decode(self._stream.encoding)
            )
        self._guarded(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._guarded(self._stream.flush)

    def _guarded(self, action: Any) -> None:
        if self._broken:
            return
        try:
            action()
        except OSError as error:
            self._broken = True
            if not isinstance(error, BrokenPipeError):
                self.failure = error.strerror or str(error)
            # else the interpreter complains when it flushes at exit
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@dataclass
class Settings:
    """The global options. quiet: 1 no progress, 2 errors only."""

    json: bool = False
    quiet: int = 0
    verbose: bool = False
    color: str = "auto"
    debug: bool = False


@dataclass
class Environment:
    """Streams, variables and settings of one invocation. stdout is the answer, stderr the
    conversation.

    rank: of this process among those that torchrun started to train together.
    """

    stdout: TextIO
    stderr: TextIO
    environ: Mapping[str, str] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    argv: tuple[str, ...] = ()
    command: str = ""
    rank: int = 0

    def __post_init__(self) -> None:
        self.stdout = _Stream(self.stdout)  # type: ignore[assignment]
        self.stderr = _Stream(self.stderr)  # type: ignore[assignment]
        self.settings.debug = self.settings.debug or self.environ.get("KD_DEBUG", "") not in {
            "",
            "0",
        }

    @classmethod
    def of_process(cls) -> Environment:
        """The streams and variables of this process."""
        return cls(sys.stdout, sys.stderr, os.environ)

    def take_rank(self) -> None:
        """Under torchrun, let the first rank speak for all, but for an error that another one has
        alone.

        Raises:
            UsageError: a variable of torchrun's does not hold what it should.
        """
        if TRAINING & set(self.argv):
            self.rank, _ = started_rank(self.environ)
        self.settings.quiet += 2 * (self.rank > 0)

    def merge(
        self, *, json: bool, quiet: int, verbose: bool, color: str | None, debug: bool
    ) -> None:
        """Adds global options given at one place, before or after the command, to those given at
        the other.
        """
        mine = self.settings
        mine.json, mine.verbose, mine.debug = (
            mine.json or json,
            mine.verbose or verbose,
            mine.debug or debug,
        )
        mine.quiet += quiet
        mine.color = color or mine.color

    # ---- what the streams are --------------------------------------------------------------------

    @property
    def unicode(self) -> bool:
        """Tells whether stdout can hold any sign."""
        return bool(self.stdout.unicode)  # type: ignore[attr-defined]

    @property
    def github(self) -> bool:
        """Tells whether this is a job of GitHub Actions."""
        return self.environ.get("GITHUB_ACTIONS") == "true"

    @property
    def live(self) -> bool:
        """Tells whether stderr may be redrawn: a capable terminal, and no continuous
        integration.
        """
        quiet_places = (
            self.environ.get("CI", "") not in {"", "0", "false"}
            or self.environ.get("TERM") == "dumb"
        )
        return self.stderr.isatty() and not quiet_places and self.err.is_interactive

    @cached_property
    def out(self) -> Console:
        """The console of the answer, stdout."""
        return self._console(self.stdout)

    @cached_property
    def err(self) -> Console:
        """The console of the conversation, stderr."""
        return self._console(self.stderr)

    def _console(self, stream: TextIO) -> Console:
        from rich.console import Console, ConsoleOptions, RenderableType
        from rich.segment import Segment

        class CleanConsole(Console):
            """A console that draws no text as it came from outside (kdcli.clean)."""

            def render(
                self, renderable: RenderableType, options: ConsoleOptions | None = None
            ) -> Iterable[Segment]:
                for segment in super().render(renderable, options):
                    yield (
                        segment
                        if segment.control
                        else Segment(clean.text(segment.text), segment.style)
                    )

        color = self.settings.color
        options: dict[str, Any] = (
            {"force_terminal": True}
            if color == "always"
            else {"color_system": None}
            if color == "never"
            else {}
        )
        width = None if stream.isatty() or "COLUMNS" in self.environ else PIPE_WIDTH
        console = CleanConsole(
            file=stream,
            highlight=False,
            markup=False,
            emoji=False,
            width=width,
            _environ=self.environ,
            **options,
        )
        if console.width < LEAST_COLUMNS:  # noqa: PLR1730  a width once set no longer follows the window
            console.width = LEAST_COLUMNS
        return console

    @property
    def width(self) -> int:
        """Columns of stderr; without end where it is no terminal."""
        return self.err.width

    @property
    def answer_width(self) -> int:
        """Columns of stdout; without end where it is no terminal."""
        return self.out.width

    # ---- saying something ------------------------------------------------------------------------

    def write(self, text: str) -> None:
        """Puts text as it is on stdout, unless the answer is JSON."""
        if not self.settings.json:
            text = clean.text(text)
            self.stdout.write(text if text.endswith("\n") else text + "\n")
            self.stdout.flush()

    def write_rows(self, rows: Sequence[str], last: str) -> None:
        """Puts a list on stdout: on a terminal a row is cut to one line, in a pipe never."""
        width = terminal_columns() if self.stdout.isatty() else None
        cut = [shorten(row, width) if width else row for row in rows]
        self.write("\n".join(clean.line(row) for row in (*cut, last)))

    def answer(self, *parts: Part) -> None:
        """A line on stdout that -qq silences: what was asked for. With --json, whose document has
        stdout for itself, on stderr.
        """
        if self.settings.quiet < 2:
            self._line(self.err if self.settings.json else self.out, parts)

    def begin(self) -> None:
        """The first line: that the command was understood and is at work. It gives way to the first
        text on either stream, which may be seconds off: torch alone takes two to import.

        On terminals only; nobody waits before a log.
        """
        if self.settings.quiet < 1 and self.live:
            self.stderr.write(f"kd {__version__} · {self.command} ...")
            self.stderr.flush()
            for stream in self._streams:
                stream.before = self.give_way

    def give_way(self) -> None:
        """Takes the first line away, if it still stands."""
        if self._streams[0].before is not None:
            for stream in self._streams:
                stream.before = None
            self.stderr.write("\r\x1b[2K")
            self.stderr.flush()

    @property
    def _streams(self) -> tuple[_Stream, _Stream]:
        return self.stdout, self.stderr  # type: ignore[return-value]

    def progress(self, *parts: Part) -> None:
        """A line on stderr that -q silences: what is going on."""
        if self.settings.quiet < 1:
            self._line(self.err, parts)

    def report(self, *parts: Part) -> None:
        """A line on stderr that -qq silences: what there is to say beside the answer."""
        if self.settings.quiet < 2:
            self._line(self.err, parts)

    def complain(self, *parts: Part) -> None:
        """A line on stderr that nothing silences."""
        self._line(self.err, parts)

    def tell_of_lost_answer(self) -> None:
        """Says that stdout could not be written to. What the command did is done all the same, so
        that its exit code stays.
        """
        failure: str = self.stdout.failure  # type: ignore[attr-defined]
        if failure:
            self.complain(
                ("warning: ", "yellow"), f"the answer could not be written to stdout: {failure}"
            )

    def _line(self, console: Console, parts: tuple[Part, ...]) -> None:
        from rich.text import Text

        text = Text.assemble(
            *(
                clean.line(part) if isinstance(part, str) else (clean.line(part[0]), part[1])
                for part in parts
            )
        )
        if console.file.isatty() and len(text) > console.width:
            hang = min(len(text.plain) - len(text.plain.lstrip()) + 2, LEAST_COLUMNS // 2)
            first, *rest = text.wrap(console, console.width - hang)
            for line in (first, *rest):
                line.rstrip()
            text = Text("\n" + " " * hang).join([first, *rest])
        console.print(text, soft_wrap=True)


def refuse_odd_bytes(env: Environment) -> None:
    """Refuses names that are no UTF-8, since recipes, headers and reports, which name them, are.

    Raises:
        UsageError: an argument, or a variable of kd's, is none.
    """
    variables = {name: text for name, text in env.environ.items() if name.startswith("KD_")}
    for where, text in [("", argument) for argument in env.argv] + list(variables.items()):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = text.encode(errors="backslashreplace").decode()
            raise UsageError(
                f"{f'{where}: ' if where else ''}{shown} is not UTF-8, as kd's files are",
                hint="rename it",
            ) from error


def open_streams() -> None:
    """Opens the null device for each standard stream that the process was started without, so that
    no file of kd's takes its number and what is written to it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def stop_on_sigterm() -> None:
    """Lets SIGTERM end the process as an error that is reported like any other, with exit code
    143.
    """

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise Terminated("stopped by the system (SIGTERM)")

    signal.signal(signal.SIGTERM, stop)
