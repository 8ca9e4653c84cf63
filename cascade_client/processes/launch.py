"""Run as a script: `launch.py PARENT_PID COMMAND...` becomes COMMAND, which dies with its parent.

The kernel sends the signal (Linux), so it comes even where the parent was killed outright. Elsewhere the
command outlives such a parent.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
