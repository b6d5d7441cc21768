"""Many photos on a cluster: a Ray Data pipeline over the list; each worker loads the model once."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab.bulk.jobs import Job, Outcome, Settings, run_job
from deeplab.bulk.memory_limiter import estimate_bytes
from deeplab.bulk.ray_cluster import connect, import_ray, share_cluster
from deeplab.bulk.workers import Workers, run
from deeplab.model.loading import load

MAX_BLOCK = 64
"""Most photos that are handed to a worker together; a block costs Ray about 10 ms."""
BLOCKS_PER_WORKER = 8
"""Fewest blocks for each worker, so that all workers end at about the same time."""
RETRIES = 2
"""How often a block whose worker died is tried again."""


def run_on_ray(
    jobs: Sequence[Job],
    engine: Mapping[str, Any],
    settings: Settings,
    callback: Callable[[Outcome], object],
    *,
    address: str | None = None,
) -> None:
    """Do all jobs on a Ray cluster.

    Photos, results and weights must be visible to every machine under the same path. Each photo is done once:
    what a worker had written before it died is not done again, since its ids, which are written last, are
    younger than this call. Photos of blocks whose workers die repeatedly are tried one by one, and then
    reported as failed.

    Args:
        jobs: what to do.
        engine: arguments of ``loading.load``.
        settings: options for every photo.
        callback: called with each outcome in the caller's thread, as soon as it is there, in any order.
        address: "local" for workers on this machine, "auto" for the cluster this machine belongs to, or
            HOST:PORT; by default the value of RAY_ADDRESS, or else "local".

    Raises:
        ModuleNotFoundError: if Ray is not installed.
        ConnectionError: if there is no cluster at the address.
        ValueError, OSError: what ``loading.load`` raises in a worker, at once and not for each photo.
    """
    if not jobs:
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    ray = import_ray(local=address == "local")
    owns_connection = not ray.is_initialized()
    if owns_connection:
        connect(ray, address)
    try:
        engine = {**engine, "weights": _absolute_path(engine.get("weights"))}
        pending = {str(job.target.absolute()): job for job in jobs}
        since = file_clock(jobs[0].target.parent)
        for one_by_one in (False, True):
            for outcome in stream_outcomes(
                ray, list(pending.values()), engine, settings, since, one_by_one=one_by_one
            ):
                job = pending.pop(str(outcome.job.target), None)
                if job is not None:  # Ray may deliver a block twice if it lost track of it
                    callback(_with_given_paths(outcome, job))
            if not pending:
                break
        for job in pending.values():
            error = f"{job.photo}: its worker died {RETRIES + 1} times; it may lack memory for it"
            callback(Outcome(job, error=error))
    finally:
        if owns_connection:
            ray.shutdown()


class Labeller:
    """A worker process with a model, which labels a block of photos at a time.

    Args:
        engine: arguments of ``loading.load``.
        settings: options for every photo.
        workers: how the processors of the worker process are shared.
        since: start of the job in nanoseconds since 1970, on the clock of the results' file system; younger
            results belong to this job.
    """

    def __init__(self, engine: Mapping[str, Any], settings: Settings, workers: Workers, since: int):
        self._model = load(**engine)
        self._settings = settings
        self._workers = workers
        self._since = since
        self._name = f"{platform.node()}:{os.getpid()}"

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Label a block: columns of paths of photos and targets (bytes) become a column of outcomes."""
        outcomes: list[Outcome] = []
        paths = zip(block["photo"], block["target"], strict=True)
        jobs = [Job(Path(os.fsdecode(photo)), Path(os.fsdecode(target))) for photo, target in paths]
        memory_of = partial(_job_bytes, settings=self._settings, model=self._model)
        run(jobs, self._label, outcomes.append, workers=self._workers, memory_of=memory_of)
        return {"outcome": [_packed(outcome) for outcome in outcomes]}

    def _label(self, job: Job, threads: int) -> Outcome:
        outcome = self._earlier_outcome(job)
        if outcome is None:
            try:
                outcome = run_job(job, self._model, self._settings, threads=threads)
            except OSError as error:  # a full disk must not be reported as "its worker died"
                outcome = Outcome(job, error=f"{job.photo}: {error}")
        return replace(outcome, worker=self._name)

    def _earlier_outcome(self, job: Job) -> Outcome | None:
        """The outcome of a job that another worker of this call finished before it died."""
        ids = job.output_files()[0]
        try:
            if ids.stat().st_mtime_ns < self._since:
                return None
            with Image.open(ids) as file:
                labels = np.asarray(file)
        except OSError:
            return None
        names = self._model.class_names
        counts = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
        order = np.argsort(-counts, kind="stable")
        return Outcome(job, {names[i]: float(counts[i]) for i in order if counts[i] > 0})


def stream_outcomes(
    ray: Any,
    jobs: list[Job],
    engine: Mapping[str, Any],
    settings: Settings,
    since: int,
    *,
    one_by_one: bool,
) -> Iterator[Outcome]:
    """Yield outcomes as blocks of jobs end; those of blocks whose workers died too often are missing.

    Args:
        ray: the module, connected to a cluster.
        jobs: what to do.
        engine: arguments of ``loading.load``.
        settings: options for every photo.
        since: see ``Labeller``.
        one_by_one: whether each block has one photo only.
    """
    share = share_cluster(ray.cluster_resources(), str(engine.get("device", "auto")), MAX_BLOCK)
    size = 1 if one_by_one else min(max(len(jobs) // (BLOCKS_PER_WORKER * share.processes), 1), MAX_BLOCK)
    # Paths as bytes, since Arrow's text must be UTF-8 and file names need not be.
    rows = [
        {"photo": os.fsencode(job.photo.absolute()), "target": os.fsencode(job.target.absolute())}
        for job in jobs
    ]
    blocks = -(-len(rows) // size)
    data = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        Labeller,
        fn_constructor_args=(dict(engine), settings, share.workers, since),
        batch_size=None,  # whole blocks
        compute=ray.data.ActorPoolStrategy(size=min(share.processes, blocks)),
        ray_remote_args_fn=_retries,
        **share.resources,
    )
    for block in data.iter_batches(batch_size=None, prefetch_batches=0):
        yield from map(_unpacked, block["outcome"])


def file_clock(folder: Path) -> int:
    """The present time in nanoseconds since 1970 on the clock of a folder's file system."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".clock-{os.getpid()}"
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime_ns
    finally:
        probe.unlink(missing_ok=True)


def _retries() -> dict[str, Any]:
    """Limit the retries: without a limit, a photo that kills its worker would do so for ever."""
    return {"max_task_retries": RETRIES}


def _job_bytes(job: Job, settings: Settings, model: Any) -> int:
    return estimate_bytes(job.photo, settings, model)


def _absolute_path(weights: Any) -> Any:
    """Weights that are a file as an absolute path, since workers have another working directory."""
    return str(Path(weights).absolute()) if weights is not None and Path(weights).exists() else weights


def _packed(outcome: Outcome) -> str:
    """An outcome as JSON, so that Arrow need not guess types from empty lists."""
    row = asdict(outcome)
    del row["job"]
    return json.dumps([str(outcome.job.photo), str(outcome.job.target), row])


def _unpacked(text: str) -> Outcome:
    photo, target, row = json.loads(text)
    return Outcome(Job(Path(photo), Path(target)), **row)


def _with_given_paths(outcome: Outcome, job: Job) -> Outcome:
    """The outcome with the paths that the caller gave instead of absolute ones."""
    error = outcome.error and outcome.error.replace(str(outcome.job.photo), str(job.photo))
    return replace(outcome, job=job, error=error)
