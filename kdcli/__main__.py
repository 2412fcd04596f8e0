"""Entry point of `kd`. Everything is imported inside `main`, so that Ctrl-C during the imports is
still exit 130.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line of this process and exits with its code."""
    try:
        from kdcli.cli.app import run
        from kdcli.cli.console import Environment, stop_on_sigterm

        stop_on_sigterm()
        code = run(sys.argv[1:], Environment.of_process())
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
