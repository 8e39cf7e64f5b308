"""Several cohorts at a time: Dask is only the queue, the store on disk is the truth."""

import logging
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from dpnet.companion.notebooks import kernel_environment
from dpnet.io import RELAY, ROW, DPNetError, Places, terminal

RETRIES = 2  # of a cohort whose worker was killed
LIMITS = 20  # times that a queue may end a cohort at its time limit: each goes on where the one before was
LOOPBACK = "127.0.0.1"  # Dask's default listens on all interfaces, without authentication
DASHBOARD = f"{LOOPBACK}:0"  # Dask's pages have no password, not even where its messages are encrypted
SETTINGS = {
    "distributed.scheduler.worker-saturation": 1.0,  # else what waits at a worker is blamed for its death
    "distributed.nanny.pre-spawn-environ.DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical",
}
# A worker here is started again by its Nanny; a job of Slurm's is lost, and submitted anew.
SETTINGS_HERE = {"distributed.deploy.lost-worker-timeout": "365d"}
T = TypeVar("T")


def spread(
    work: Callable[[T], str | None], named: Mapping[str, T], jobs: int, at: Places, where: str = ""
) -> Iterator[tuple[str, str | None]]:
    """Call a function with each of several items, on workers: name and what went wrong, or None, as they end."""
    # `where`: "" is this machine, "slurm" are jobs as Dask's own configuration describes them; or an address.
    try:
        import dask
        from distributed import Client, KilledWorker, as_completed
    except ImportError:
        raise DPNetError("JOBS above 1, or CLUSTER, needs Dask: pip install -e '.[cluster]', or JOBS=1") from None
    with ExitStack() as stack:
        stack.enter_context(kernel_environment(at))  # and what Dask adds (one thread, among others) ends with it
        for name in ("distributed", "distributed.client"):  # errors are printed by us, in one line
            logging.getLogger(name).setLevel(logging.CRITICAL)
        scratch = stack.enter_context(TemporaryDirectory(prefix="dpnet-dask-"))
        allowed = LIMITS if where == "slurm" else RETRIES
        own = {"temporary-directory": scratch, "distributed.scheduler.allowed-failures": allowed}
        stack.enter_context(dask.config.set({**own, **SETTINGS, **(SETTINGS_HERE if not where else {})}))
        scheduler, slots = where, min(jobs, len(named))
        try:
            if where in ("", "slurm"):
                scheduler = _slurm(slots, at) if where == "slurm" else _local(slots, at.device)
                stack.callback(_close, scheduler)
            client = stack.enter_context(Client(scheduler, timeout="10s"))
        except (ImportError, OSError, ValueError) as error:
            raise DPNetError(f"CLUSTER={where or 'local'}: {error}") from error
        here = {name: value for name, value in os.environ.items() if name.startswith("DPNET_")}
        here[RELAY] = "" if where else terminal()
        call = secrets.token_hex(4)  # a scheduler that is there already may know the same names from another call
        futures = {
            client.submit(_placed, work, item, here, key=f"{name}-{call}", retries=RETRIES, pure=False): name
            for name, item in named.items()
        }
        for future in as_completed(futures):
            name, failure = futures.pop(future), future.exception()
            problem = str(failure) if failure else future.result()
            if isinstance(failure, KilledWorker):
                problem = f"its worker was killed {1 + allowed} times (out of memory, perhaps)"
            future.release()  # else it would be computed again when the worker that has its result dies
            yield name, problem


def _placed(work: Callable[[T], str | None], item: T, here: dict[str, str]) -> str | None:
    """On a worker: the driver's places."""
    os.environ.update(here)
    return work(item)


def _local(slots: int, device: str) -> Any:
    """A process per slot, each with a GPU of its own where there are several."""
    from distributed import Nanny, Scheduler, SpecCluster

    gpus: list[str] = []
    if device == "cuda":
        import torch  # here, since seconds of a worker's start are its import

        listed = os.environ.get("CUDA_VISIBLE_DEVICES")  # of which only these are the user's: numbers or UUIDs
        gpus = [listed.split(",")[i] if listed else str(i) for i in range(torch.cuda.device_count())]

    # Without dashboard there is still a page, on a fixed port and for every host, unless told otherwise.
    pages: dict[str, Any] = {"host": LOOPBACK, "dashboard": False, "dashboard_address": DASHBOARD}
    workers = {}
    for number in range(slots):
        environment = {ROW: str(number + 1)} | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})
        options = {**pages, "nthreads": 1, "env": environment, "memory_limit": 0}
        workers[number] = {"cls": Nanny, "options": options}
    return SpecCluster(workers, {"cls": Scheduler, "options": {**pages, "port": 0}})


def _close(cluster: Any) -> None:
    for _ in range(2):  # Dask stumbles over a worker that is just being started again; all work is done by then
        with suppress(Exception):
            return cluster.close()


def _slurm(slots: int, at: Places) -> Any:
    """Jobs of a Slurm queue: cores, memory, partition and time as in ~/.config/dask/jobqueue.yaml."""
    import dask
    from dask_jobqueue import SLURMCluster

    theirs = dask.config.get("jobqueue.slurm")
    if shlex.quote(str(at.results)) != str(at.results):  # Dask writes it into the jobs' scripts as it is
        raise DPNetError(f"{at.results}: a path of plain letters, without spaces, is needed for Slurm: RESULTS=…")
    at.results.mkdir(parents=True, exist_ok=True)
    one_cohort = ["--dashboard-address", DASHBOARD, "--nthreads", "1"]  # at a time: it fills a GPU
    cluster = SLURMCluster(
        processes=1,
        python=shlex.quote(sys.executable),
        security=True,  # encrypted and authenticated, since it leaves this host
        shared_temp_directory=str(at.results),
        scheduler_options={**(theirs.get("scheduler-options") or {}), "dashboard_address": DASHBOARD},
        worker_extra_args=[*(theirs.get("worker-extra-args") or []), *one_cohort],
    )
    cluster.adapt(minimum_jobs=slots, maximum_jobs=slots)  # a job that ended at its time limit is submitted anew
    return cluster
