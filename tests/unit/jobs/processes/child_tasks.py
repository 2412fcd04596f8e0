"""What the children of test_child do. Functions of a module, because a child is given its function by
name.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing.connection import Connection

from kdcli import trust
from kdcli.jobs.processes.child import answer_sigterm


def interrupted(pipe: Connection) -> None:
    """Says what may run here; then Ctrl-C, and whatever the parent sends."""

    def told(number: int, _frame: object) -> None:
        pipe.send(number)
        sys.exit(3)

    answer_sigterm(told)
    pipe.send(trust.current())
    pipe.send(os.environ.get("KD_TEST_OF_CHILDREN"))
    os.kill(os.getpid(), signal.SIGINT)
    pipe.send("not interrupted")
    while True:
        time.sleep(0.05)


def interrupted_without_masks(pipe: Connection) -> None:
    """The same where the system cannot block a signal."""
    del signal.pthread_sigmask
    interrupted(pipe)
