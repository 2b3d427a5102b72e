"""Dask workers for the tasks of a flow: a cluster of processes on this machine, or one that is there.

Between Prefect and Dask stands prefect-dask alone. What is here waits for results so that a flow ends with a message
where Dask would wait forever.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import Task
from prefect.logging import get_run_logger

from ganomaly.errors import ConfigError
from tasks.errors import OperatingError

FIRST_WORKER_S = 60
"""So long a flow waits for the first worker of a scheduler ..."""
NO_WORKER_S = 120
"""... and so long without any, once it began: Dask starts its local ones again within seconds."""
POLL_S = 1.0


class WorkersLostError(OperatingError):
    """The Dask scheduler, or its last worker, is not there (any more). What was committed is not lost."""


class DaskWorkers:
    """Runs tasks on Dask workers.

    Args:
        runner: prefect-dask's, started.
        where: the cluster, for people.
    """

    def __init__(self, runner: Any, where: str) -> None:
        self._runner, self._where = runner, where

    def run(self, task: Task[..., Any], calls: Sequence[dict[str, Any]]) -> Iterator[Any]:
        """Run a task for each set of parameters, and give each result as it comes.

        Where one fails, the others come to their end first.

        Raises:
            WorkersLostError: if the scheduler or all workers are gone; what failed on a worker is raised as it is.
        """
        waiting = [self._runner.submit(task, parameters) for parameters in calls]
        failed: list[Exception] = []
        seen = time.monotonic()
        while waiting:
            done = [future for future in waiting if future.wrapped_future.done()]
            waiting = [future for future in waiting if future not in done]
            for future in done:
                self._gather(future)
                try:
                    result = future.result()
                except Exception as error:
                    failed.append(error)
                    continue
                yield result
            if not waiting:
                break
            seen = time.monotonic() if self._n_workers() else seen
            if time.monotonic() - seen > NO_WORKER_S:
                raise WorkersLostError(
                    f"{self._where} had no worker for {NO_WORKER_S} s: start some, and run the flow again: it does "
                    "what is left"
                )
            time.sleep(POLL_S)
        if failed:
            raise failed[0]

    def _gather(self, future: Any) -> None:
        """Fetch what a task ended with: here only Dask itself fails."""
        from distributed import KilledWorker  # noqa: PLC0415 - of the extra `dask`

        try:
            future.wrapped_future.result(timeout=NO_WORKER_S)
        except KilledWorker as error:
            raise WorkersLostError(
                f"{self._where} lost several workers over one shard; look at the last one's log and at the memory of "
                f"its machine: {error}"
            ) from error
        except Exception as error:
            raise self._silent(error) from error

    def _silent(self, error: Exception) -> WorkersLostError:
        return WorkersLostError(
            f"{self._where} does not answer any more ({error!r}): start it, and run the flow again: it does what is "
            "left"
        )

    def _n_workers(self) -> int:
        try:
            return len(self._runner.client.scheduler_info(n_workers=-1)["workers"])
        except Exception as error:
            raise self._silent(error) from error


@contextmanager
def dask_workers(dask: int | str) -> Iterator[DaskWorkers]:
    """Workers of a cluster, as long as the block runs.

    Args:
        dask: how many processes on this machine, each for one core; or the address of a scheduler.

    Raises:
        ConfigError: if prefect-dask is not installed.
        WorkersLostError: if the scheduler does not answer, or has no worker.
    """
    try:
        from prefect_dask.task_runners import DaskTaskRunner  # noqa: PLC0415 - of the extra `dask`
    except ModuleNotFoundError:
        raise ConfigError(
            f"scoring.dask = {dask!r}: prefect-dask is not installed: pip install 'ganomaly-inspection[dask]'"
        ) from None
    if isinstance(dask, int):
        # Dask would give each thread its share of the memory and kill the process that takes more
        cluster = {"n_workers": dask, "threads_per_worker": 1, "memory_limit": 0, "host": "127.0.0.1"}
        cluster |= {"dashboard_address": None}
        runner, where = DaskTaskRunner(cluster_kwargs=cluster), f"the Dask cluster of {dask} processes"
    else:
        runner, where = DaskTaskRunner(address=dask, client_kwargs={"timeout": 10}), f"the Dask scheduler at {dask}"
    with runner as started:
        try:
            started.client.wait_for_workers(1, timeout=FIRST_WORKER_S)
        except (OSError, TimeoutError) as error:
            raise WorkersLostError(
                f"{where} does not answer or has no worker within {FIRST_WORKER_S} s ({error}): see that scheduler and "
                "workers run and reach each other"
            ) from error
        get_run_logger().info("%s, %d workers", where, len(started.client.scheduler_info(n_workers=-1)["workers"]))
        yield DaskWorkers(started, where)
