"""Groups of samples on threads of our own: kernels release the GIL, and Numba's threading layer is never started.

That makes calls from several Python threads and from forked processes safe, whatever that layer is.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from numba.core import config
from numba.np.ufunc import parallel

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def workers(groups: int) -> int:
    """How many threads share so many groups: at most what ``numba.get_num_threads()`` would say."""
    # to ask Numba itself starts its layer; where none is started, nobody has set a number
    started = parallel._is_initialized
    most = parallel._get_num_threads() if started else config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return max(1, min(groups, int(most)))


def share(groups: int, count: int, run: Callable[[int, int], None]) -> None:
    """Call ``run(worker, group)`` once for every group, on ``count`` threads, the caller's among them.

    ``run`` keeps alive whatever memory it writes: should the caller be interrupted, a worker ends the group it is at.
    """
    waiting = deque(range(groups))

    def work(worker: int) -> None:
        while True:
            try:
                group = waiting.popleft()
            except IndexError:
                return
            run(worker, group)

    others: list[Future[None]] = []
    try:
        with contextlib.suppress(RuntimeError):  # at exit there are no new threads; the bits are the same without
            for worker in range(1, count):
                others.append(_threads().submit(work, worker))
        work(0)
    finally:
        waiting.clear()
        started = [other for other in others if not other.cancel()]
        wait(started)
    for other in started:
        other.result()


def _threads() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            most = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
            _pool = ThreadPoolExecutor(most, thread_name_prefix="antisymrnn")
        return _pool


def _forget() -> None:
    global _lock, _pool
    _lock, _pool = threading.Lock(), None  # threads do not survive a fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
