"""Carries out runs on `ray`: on the processors of this machine, or on a cluster whose machines share the run folders.

A run is one task with the threads that it would have here, so its numbers are those of a run one after the other with
as many threads. What is trained, resumed and written is what `execution.carry_out` does anywhere.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bareformers.errors import InputError, Interrupted
from bareformers.execution import Carrier, Job, carry_out, one_by_one
from bareformers.run_folder import Log, import_plugins
from bareformers.training.allocator import keep_freed_memory

LOCAL = "ray"
PATIENCE = 5.0  # seconds for a cluster to answer
STOPPING = 60.0  # seconds for runs to write a checkpoint, once they are stopped
OBJECTS = 100 * 2**20  # bytes of shared memory on this machine; ray puts on disk what is beyond them
# What an HTTP/2 server, as those of ray are, is greeted with, and a frame of settings, which it answers with its own.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def carrier(on: str) -> Carrier:
    """What carries out jobs on `on`: `ray` for this machine alone, or the address of a cluster as `ray.init` takes it.

    An `InputError` where `ray` is not installed, or nothing answers at the address.
    """
    address = on.removeprefix("ray://")
    host, _, port = address.rpartition(":")
    if on not in (LOCAL, "auto") and not (host and "/" not in host and port.isdecimal() and int(port) < 2**16):
        raise InputError(
            f"--on is ray, or the address of a ray cluster as in head:6379 or ray://head:10001, not {on!r}"
        )
    try:
        # Before ray is imported: no statistics for its makers, and no word about how it shares out GPUs.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray  # noqa: F401
    except ImportError as error:
        raise InputError("--on needs ray; pip install 'bareformers[ray]'") from error
    if host and not answers(host, int(port)):
        raise InputError(
            f"no ray cluster answers at {on}; start one with `ray start --head --port={port}` there, or write --on ray "
            f"for this machine alone"
        )

    def carry(jobs: Sequence[Job], log: Log) -> None:
        if any(job.run.training.budget.minutes is not None for job in jobs):
            raise InputError(
                "training.budget.minutes buys less where runs share a machine, so with --on it is not the same for "
                "all; write tokens, steps or epochs"
            )
        torch.set_num_threads(threads())  # of what is timed and described here, too
        ended = [job for job in jobs if job.run.result_file.exists()]
        one_by_one(ended, log)
        if left := [job for job in jobs if job not in ended]:
            with started(on) as cluster:
                spread(cluster, left, log)

    return carry


def answers(host: str, port: int) -> bool:
    """Whether what listens there speaks as ray does; ray itself would wait for minutes."""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as connection:
            connection.settimeout(PATIENCE)
            connection.sendall(GREETING)
            return connection.recv(9)[3:4] == b"\x04"
    except OSError:
        return False


def threads() -> int:
    """Of each run: one, or what OMP_NUM_THREADS says."""
    said = os.environ.get("OMP_NUM_THREADS", "1")
    return max(1, int(said)) if said.isdecimal() else 1


def processors() -> int:
    """Those of this machine."""
    return os.cpu_count() or 1


@contextmanager
def started(on: str) -> Iterator[Any]:
    """`ray`, joined or started, and left again."""
    import ray

    own = {"address": "local", "num_cpus": max(processors(), threads()), "object_store_memory": OBJECTS}
    where: dict[str, Any] = {**own, "include_dashboard": False} if on == LOCAL else {"address": on}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ImportError, RuntimeError, TimeoutError, ValueError) as error:
        advice = "" if on == LOCAL else "; where the cluster asks for a token, set RAY_AUTH_TOKEN to it"
        raise InputError(f"ray cannot be used with --on {on}: {' '.join(str(error).split())}{advice}") from error
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does
    try:
        yield ray
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.shutdown()


def spread(ray: Any, jobs: Sequence[Job], log: Log) -> None:
    """Carry out `jobs`, as many at once as there is room for, and say what each said once it has ended."""
    room = max(float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    if room < threads():
        raise InputError(
            f"no machine of the cluster has the {threads()} processors that a run takes; write OMP_NUM_THREADS={room:g}"
        )
    available = ray.cluster_resources()
    gpus = int(available.get("GPU", 0) > 0)  # without one of its own, a task sees none
    log(
        f"{len(jobs)} runs on {available.get('CPU', 0):g} processors, {threads()} for each"
        + (" and a GPU" if gpus else "")
    )
    task = ray.remote(num_cpus=threads(), num_gpus=gpus, max_retries=0)(_carried_out)
    shared = {id(job.data): ray.put(pickle.dumps(job.data)) for job in jobs}
    waiting = {}
    for job in jobs:
        errand = Errand(pickle.dumps((job.run, job.make)), job.run.recipe["plugins"], os.getcwd(), threads())
        waiting[task.remote(errand, shared[id(job.data)])] = job
    try:
        for count in range(1, len(jobs) + 1):
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            sentences, failure = ray.get(ended)
            label = waiting.pop(ended).run.label
            for sentence in sentences:
                log(sentence)
            if failure is not None:
                raise failure
            log(f"{label}: ended, {count} of {len(jobs)}")
    except ray.exceptions.RayTaskError:
        _stop(ray, list(waiting))
        raise
    except ray.exceptions.RayError as error:
        _stop(ray, list(waiting))
        said = " ".join(str(error).split())
        raise InputError(f"a worker was lost: {said}; the same command goes on from the last checkpoints") from error
    except (InputError, KeyboardInterrupt) as error:
        log("stopping the other runs, which write a checkpoint first")
        _stop(ray, list(waiting))
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted("stopped, with a checkpoint of what was training") from None
        raise


def _stop(ray: Any, waiting: list[Any]) -> None:
    """As Ctrl-C would: runs that are training write a checkpoint, others never begin."""
    for each in waiting:
        ray.cancel(each)
    if waiting:
        ray.wait(waiting, num_returns=len(waiting), timeout=STOPPING)


@dataclass(frozen=True)
class Errand:
    """What a worker is told.

    Attributes:
        pickled: the run and what makes its model; they may be of modules that plugins have to register first.
        folder: in which paths of the recipe are meant.
    """

    pickled: bytes
    plugins: list[str]
    folder: str
    threads: int


def _carried_out(errand: Errand, data: bytes) -> tuple[list[str], InputError | None]:
    """On a worker: carry out one run; what was said, and what was wrong for the user."""
    said: list[str] = []
    try:
        if not Path(errand.folder).is_dir():
            raise InputError(f"{socket.gethostname()} has no folder {errand.folder}, which all machines are to share")
        os.chdir(errand.folder)
        torch.set_num_threads(errand.threads)
        keep_freed_memory()
        import_plugins(errand.plugins)
        run, make = pickle.loads(errand.pickled)
        carry_out(run, pickle.loads(data), said.append, make)
    except InputError as error:
        return said, error
    return said, None
