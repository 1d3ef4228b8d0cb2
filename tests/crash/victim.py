"""What is killed: run as a program, it tells on a pipe how far it is, one byte or line at a time.

`victim.py demo PIPE DATA_DIR HUB RESUME` runs the demo; a byte for each line that its journal took.
`victim.py log PIPE DIRECTORY THREADS` records rows without end; a line `thread row` for each that was acknowledged.
"""

from __future__ import annotations

import io
import itertools
import os
import sys
import threading
from pathlib import Path

from hubstate import journal
from hubstate.session import start


def demo(pipe: int, data_dir: str, hub: str, resume: str) -> int:
    from hubstate.demo import run_demo

    write = journal._write_whole

    def told(fd: int, line: bytes) -> None:
        write(fd, line)
        os.write(pipe, b".")

    journal._write_whole = told
    out = io.StringIO()
    code = run_demo(data_dir=Path(data_dir), hub=hub or None, resume=bool(resume), port=0, pace=0.02, out=out)
    if code:
        print(out.getvalue(), file=sys.stderr)
    return code


def log(pipe: int, directory: str, threads: str) -> int:
    session = start("rows", directory=directory, mode="offline")

    def record(thread: int) -> None:
        for row in itertools.count():
            session.log({f"value/{thread}": row / 7}, epoch=thread, step=row)
            os.write(pipe, f"{thread} {row}\n".encode())

    running = [threading.Thread(target=record, args=(thread,)) for thread in range(int(threads))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return 0


if __name__ == "__main__":
    what, fd, *words = sys.argv[1:]
    sys.exit({"demo": demo, "log": log}[what](int(fd), *words))
