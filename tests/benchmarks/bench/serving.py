"""The contestant's side of a contest: carry out jobs that come as lines of JSON. Needs nothing but Python.

anomalib's contestant runs in an environment of its own, so this module imports nothing of this project.
"""

import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

Job = Callable[..., dict[str, float]]


def serve(jobs: dict[str, Job]) -> None:
    """Answer each line ``{"job": name, ...arguments}`` of standard input with one of JSON, until the input ends.

    What libraries print goes to standard error. An error of a job is its answer.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer: dict[str, Any] = jobs[request.pop("job")](**request)
            except Exception as error:
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def run_for(seconds: float, step: Callable[[], int]) -> dict[str, float]:
    """Repeat a step that gives how many images it took, for so many seconds and once at least.

    Returns:
        ``images_per_s``, ``cpu_ms`` (CPU milliseconds of this process per image, all its threads), ``images``.
    """
    images, started, cpu = 0, time.perf_counter(), time.process_time()
    while True:
        images += step()
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            break
    return {
        "images_per_s": images / elapsed,
        "cpu_ms": 1000 * (time.process_time() - cpu) / images,
        "images": images,
    }


def shuffled_batches(n_images: int, batch: int, epochs: int, seed: int) -> Iterator[list[int]]:
    """Numbers of the images of each step; the batches of an epoch differ by one image at most."""
    rng = random.Random(seed)
    n_batches = max(1, round(n_images / batch))
    for _ in range(epochs):
        order = rng.sample(range(n_images), n_images)
        yield from (sorted(order[first::n_batches]) for first in range(n_batches))


def time_each(times: int, step: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds of one step: median and 95th percentile of so many."""
    milliseconds = []
    for _ in range(times):
        started = time.perf_counter()
        step()
        milliseconds.append(1000 * (time.perf_counter() - started))
    ordered = sorted(milliseconds)
    return {"ms": ordered[len(ordered) // 2], "p95_ms": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]}
