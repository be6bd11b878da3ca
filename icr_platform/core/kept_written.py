"""What is written again and again while work goes on, so that `kill -9` takes away seconds of it at most."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def kept_written(write: Callable[[], None], every: float) -> Iterator[None]:
    """Call `write` in a thread while the block runs, and once more when it ends, however it ends.

    An OSError is for `write` to expect: from the last call it ends the block, from the thread it ends the thread.

    Args:
        every: seconds from one call to the next.
    """
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(every):
            write()

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        is_over.set()
        beating.join()
        write()
