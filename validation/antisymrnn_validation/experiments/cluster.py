"""Worker processes on dask.distributed: on this machine, or those of a scheduler that runs already.

No more threads compute than there are processors: workers × threads of the backend ≤ processors, on every machine.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dask
from dask.distributed import Client, KilledWorker, LocalCluster

from antisymrnn_ref import load_backend
from antisymrnn_ref.contract import Array
from antisymrnn_validation.experiments import training
from antisymrnn_validation.experiments.configuration import Configuration
from antisymrnn_validation.experiments.training import Gradient, State
from antisymrnn_validation.output.environment import THREAD_VARIABLES, usable_processors, versions
from antisymrnn_validation.output.terminal import reason

SAME = ("python", "antisymrnn-ref", "numpy", "numba", "llvmlite", "dask", "distributed")
"""What must have one version everywhere: the numbers rest on it, or the messages between processes."""

TIMEOUT = 10
"""Seconds to wait for a scheduler and for its first worker."""


class ClusterError(ValueError):
    """Workers that cannot be used as asked; the message says what was expected, what was given and what to do."""


def connected(workers: int, scheduler: str | None) -> AbstractContextManager[Client]:
    """A client of ``workers`` processes on this machine, or of the scheduler at an address."""
    return _running(scheduler) if scheduler else _local(workers)


def each_there(client: Client) -> Callable[..., Sequence[Gradient]]:
    """What :func:`training.step <antisymrnn_validation.experiments.training.step>` takes as ``each``: on the workers.

    Every worker has neighbouring shards. One that ends in the middle changes nothing: another one computes them.

    Raises
    ------
    ClusterError
        From the function that is returned, if the scheduler is lost or a worker ends too often.
    """
    count = sum(client.nthreads().values())

    def each(
        _: Any, configuration: Configuration, state: State, shards: Sequence[tuple[Array, Array, int]]
    ) -> Sequence[Gradient]:
        state = state._replace(slots=())
        parts = [shards[k * len(shards) // count : (k + 1) * len(shards) // count] for k in range(count)]
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}):
            try:
                futures = [client.submit(_gradients, configuration, state, part, pure=False) for part in parts if part]
                return [gradient for found in client.gather(futures) for gradient in found]
            except KilledWorker as error:
                raise ClusterError(f"a worker ended too often: {reason(error)}; what was done is kept") from error
            except (OSError, CancelledError) as error:
                raise lost(error) from error

    return each


def lost(error: BaseException) -> ClusterError:
    """What to raise when the scheduler does not answer any more."""
    return ClusterError(f"the scheduler is lost ({type(error).__name__}: {error}); what was done is kept")


_backend = functools.cache(load_backend)


def _gradients(
    configuration: Configuration, state: State, shards: Sequence[tuple[Array, Array, int]]
) -> Sequence[Gradient]:
    """The gradients of some shards, on a worker."""
    try:
        return training.each_here(_backend(configuration.backend), configuration, state, shards)
    except OSError as error:  # the client takes one for a lost scheduler
        raise ClusterError(f"a worker failed: {reason(error)}; what was done is kept") from error


@contextmanager
def _local(workers: int) -> Iterator[Client]:
    most = usable_processors()
    if not 1 <= workers <= most:
        raise ClusterError(f"--workers: expected 1 to {most}, the processors of this machine, got {workers}")
    threads = {name: str(min(most // workers, _limit(name, most))) for name in THREAD_VARIABLES}
    before = dict(os.environ)
    os.environ.update(threads)  # a worker's BLAS reads them as it is loaded, which is before it gets ``env``
    try:
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},  # None still takes port 8787
                memory_limit=0,
                env=threads,
                silence_logs=logging.ERROR,
            ) as cluster,
            Client(cluster) as client,
        ):
            _restore(before)
            client.run(_leave_interrupts)
            yield client
    finally:
        _restore(before)  # dask sets variables of its own, again whenever it starts a worker anew


def _restore(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@contextmanager
def _running(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        raise ClusterError(f"--scheduler: expected one that runs at {address!r}: {error}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=TIMEOUT)
        except TimeoutError:
            raise ClusterError(
                f"--scheduler: no worker came to {address} within {TIMEOUT} s: dask worker {address}"
            ) from None
        _check(client)
        yield client


def _leave_interrupts() -> None:
    """Ctrl-C, which a terminal sends to every process, is the client's, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check(client: Client) -> None:
    """Refuse a scheduler or workers with other versions than here, and workers with more threads than processors."""
    try:
        found = {"the scheduler": (client.run_on_scheduler(versions), 0, 0), **client.run(_about)}
    except ClusterError:  # of _limit
        raise
    except Exception as error:  # dask names an exception of the other side only in its text
        raise ClusterError(
            "--scheduler: it and its workers cannot import what is asked of them; install the same version of "
            f"antisymrnn-ref with its extra validation there: {reason(error)}"
        ) from error
    here = versions()
    asked: dict[str, int] = {}
    workers = client.scheduler_info(n_workers=-1)["workers"]
    for address, (installed, usable, threads) in found.items():
        for name in SAME:
            if installed[name] != here[name]:
                raise ClusterError(
                    f"--scheduler: expected {name} {here[name]}, as here, got {installed[name]} on {address}"
                )
        if address not in workers:
            continue
        host = workers[address]["host"]
        asked[host] = asked.get(host, 0) + threads * workers[address]["nthreads"]
        if asked[host] > usable:
            raise ClusterError(
                f"--scheduler: the workers on {host} take {asked[host]} threads or more, it has {usable} processors; "
                "start them as NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 dask worker --nthreads 1"
            )


def _about() -> tuple[dict[str, str], int, int]:
    """Versions, processors and the threads that a backend may take, in a worker."""
    most = usable_processors()
    return versions(), most, max(_limit(name, most) for name in ("OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"))


def _limit(name: str, most: int) -> int:
    """How many threads a variable of the environment allows, or OMP's in its place to a BLAS; ``most`` without any."""
    if not os.environ.get(name) and name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        name = "OMP_NUM_THREADS"
    value = os.environ.get(name) or str(most)
    try:
        if (limit := int(value.split(",")[0])) < 1:
            raise ValueError
    except ValueError:
        raise ClusterError(
            f"{name}: expected a whole number from 1 on {platform.node()}, got {value!r}; set it to 1, or unset it"
        ) from None
    return limit
