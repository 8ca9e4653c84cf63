"""The process that the ranks of an engine are forked from: it has imported torch, once for all of them and
for those that follow after a loss. Started by `ForkServer` as

    python -m cascade_core.ranks.fork_server FILE_DESCRIPTOR

It computes nothing and touches no GPU, so a fork of it is as good as a process of its own. It ends when the
engine does, after its ranks, each of which ends by its own socket.
"""

import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from cascade_core.ranks.processes import BORN, DIED, FAILED, NEWS

Rank = Callable[[int], NoReturn]
"""What a rank does, given the descriptor of its end of the socket pair."""


def main(rank: Rank) -> None:
    link = socket.socket(fileno=int(sys.argv[1]))

    def tell(kind: int, process_id: int, status: int) -> None:
        with suppress(OSError):  # the engine is gone, which the next read finds
            link.send(NEWS.pack(kind, process_id, status))

    def reap(_signal: int, _frame: FrameType | None) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                tell(DIED, ended[0], os.waitstatus_to_exitcode(ended[1]))

    signal.signal(signal.SIGCHLD, reap)
    gc.collect()
    gc.freeze()  # the collector of a rank leaves alone, and so shares, what was imported here
    while True:
        message, descriptors, _, _ = socket.recv_fds(link, 1, 1)
        if not message:
            break
        (descriptor,) = descriptors
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # no rank's death is told before its birth
        try:
            process_id = os.fork()
        except OSError as error:
            tell(FAILED, 0, error.errno or 0)
        else:
            if process_id == 0:
                link.close()
                run_rank(rank, descriptor)
            tell(BORN, process_id, 0)
        os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def run_rank(rank: Rank, descriptor: int) -> None:
    """In the new process; does not return."""
    try:
        os.setpgid(0, 0)  # a terminal's Ctrl-C is for the engine, which then closes the ranks
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        rank(descriptor)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    gc.disable()  # it finds nothing in what torch's import makes, and takes a tenth of its time
    from cascade_core.ranks import worker

    gc.enable()
    main(worker.run)
