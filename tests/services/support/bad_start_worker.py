"""In place of `services/decoder/start_worker.py`: does what the file says, as one that a file has taken
over."""

import os
import signal
import sys
import time

from services.decoder.start_messages import NUMBER, PICTURE, pack, read_task


def main() -> None:
    task = read_task(sys.stdin.buffer)
    output = sys.stdout.buffer
    match task.file.data:
        case b"die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"hang":
            time.sleep(600)
        case b"lie":
            output.write(pack(NUMBER, b"9") + pack(PICTURE, b"few bytes"))
        case b"flood":
            output.write(pack(NUMBER, b"9") + PICTURE + b"\xff" * 8)
        case b"stop in the middle":
            output.write(pack(NUMBER, b"9") + pack(PICTURE, bytes(task.picture_bytes)))
    output.flush()


if __name__ == "__main__":
    main()
