"""Entry point of `kd`. Everything is imported inside `main`, so that Ctrl-C during the imports is
still exit 130.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line of this process and exits with its code."""
    try:
        from kdcli.cli.app import run
        from kdcli.cli.console import Environment, open_streams, stop_on_sigterm
        from kdcli.surroundings import hush_libraries

        stop_on_sigterm()
        open_streams()
        hush_libraries()
        env = Environment.of_process()
        # what others print goes the same way, and survives the same
        sys.stdout, sys.stderr = env.stdout, env.stderr
        code = run(sys.argv[1:], env)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
