"""The same job on a cluster: a Ray Data pipeline over the list of photos, with the model loaded once in each
worker."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplab.bulk.jobs import Job, Outcome, Settings, attempt
from deeplab.bulk.workers import Workers, run
from deeplab.model.loading import load
from deeplab.optional import missing
from densecrf.threads import thread_count

MOST_IN_BLOCK = 64  # photos that are handed to a worker together; a block costs Ray some 10 ms
BLOCKS_A_WORKER = 8  # at least, so that all end at about the same time
RETRIES = 2  # of a block whose worker died


def run_on_ray(
    jobs: Sequence[Job],
    engine: Mapping[str, Any],
    settings: Settings,
    note: Callable[[Outcome], object],
    *,
    address: str | None = None,
) -> None:
    """Do all jobs on a Ray cluster; ``note`` is told of each as it ends, in any order, here.

    Photos, results and weights lie where every machine sees them under the same path. Each photo is done
    once: what a worker had written when it died is not done again, as its ids, which come last, are younger
        than this call. Photos
    over which workers die again and again are tried alone, and then given up.

    Args:
        jobs: what to do.
        engine: arguments of ``loading.load``.
        settings: what is asked of every photo.
        note: called with what became of each.
        address: "local" for workers on this machine, "auto" for the cluster it belongs to, or HOST:PORT; by
            default what RAY_ADDRESS says, else "local".

    Raises:
        ModuleNotFoundError: if Ray is not installed.
        ConnectionError: if there is no cluster at the address.
        ValueError, OSError: what ``loading.load`` raises in a worker, at once and not for each photo.
    """
    if not jobs:
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    ray = _ray(address == "local")
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, address)
    try:
        engine = {**engine, "weights": _everywhere(engine.get("weights"))}
        left = {str(job.target.absolute()): job for job in jobs}
        since = _clock_of(jobs[0].target.parent)
        for alone in (False, True):
            for outcome in _stream(ray, list(left.values()), engine, settings, since, alone):
                job = left.pop(str(outcome.job.target), None)
                if job is not None:  # a block can only come twice if Ray lost track of it
                    note(_as_asked(outcome, job))
            if not left:
                break
        for job in left.values():
            note(
                Outcome(
                    job, error=f"{job.photo}: its worker died {RETRIES + 1} times; it may lack memory for it"
                )
            )
    finally:
        if mine:
            ray.shutdown()


class Labeller:
    """A worker: one process with a model, which labels a block of photos at a time.

    Args:
        engine: arguments of ``loading.load``.
        settings: what is asked of every photo.
        lanes: how the worker's processors are shared.
        since: nanoseconds since 1970 on the clock of the results' file system; younger results are of this
            job.
    """

    def __init__(self, engine: Mapping[str, Any], settings: Settings, lanes: Workers, since: int):
        self._model, self._settings, self._lanes, self._since = load(**engine), settings, lanes, since
        self._worker = f"{platform.node()}:{os.getpid()}"

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Paths of photos and targets, bytes in columns, to outcomes in a column."""
        outcomes: list[Outcome] = []
        pairs = zip(block["photo"], block["target"], strict=True)
        jobs = [Job(Path(os.fsdecode(photo)), Path(os.fsdecode(target))) for photo, target in pairs]
        run(jobs, self._label, outcomes.append, lanes=self._lanes)
        return {"outcome": [_packed(outcome) for outcome in outcomes]}

    def _label(self, job: Job, threads: int) -> Outcome:
        found = self._written_before(job)
        if found is None:
            try:
                found = attempt(job, self._model, self._settings, threads=threads)
            except OSError as error:  # the disk is full; that must not end as "its worker died"
                found = Outcome(job, error=f"{job.photo}: {error}")
        return replace(found, worker=self._worker)

    def _written_before(self, job: Job) -> Outcome | None:
        """What a worker that died since had done of this job."""
        ids = job.files()[0]
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


def _stream(
    ray: Any, jobs: list[Job], engine: Mapping[str, Any], settings: Settings, since: int, alone: bool
) -> Iterator[Outcome]:
    """Outcomes of jobs as their blocks end; those of blocks whose workers died too often are missing."""
    workers, lanes, needs = _share_out(ray.cluster_resources(), str(engine.get("device", "auto")))
    size = 1 if alone else min(max(len(jobs) // (BLOCKS_A_WORKER * workers), 1), MOST_IN_BLOCK)
    # As bytes, since Arrow's text must be UTF-8, and names of files need not.
    rows = [
        {"photo": os.fsencode(job.photo.absolute()), "target": os.fsencode(job.target.absolute())}
        for job in jobs
    ]
    done = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // size)).map_batches(
        Labeller,
        fn_constructor_args=(dict(engine), settings, lanes, since),
        batch_size=None,  # the block as it is
        compute=ray.data.ActorPoolStrategy(size=min(workers, -(-len(rows) // size))),
        ray_remote_args_fn=_how_often,
        **needs,
    )
    for block in done.iter_batches(batch_size=None, prefetch_batches=0):
        yield from map(_unpacked, block["outcome"])


def _how_often() -> dict[str, Any]:
    """Without a limit, as Ray Data has it, a photo that kills its worker would do so for ever."""
    return {"max_task_retries": RETRIES}


def _share_out(cluster: Mapping[str, float], device: str) -> tuple[int, Workers, dict[str, float]]:
    """Workers, the lanes of each, and what each takes of the cluster: a processor; or a GPU with its
    processors."""
    processors, gpus = int(cluster.get("CPU", 1)), int(cluster.get("GPU", 0))
    if device.startswith("cuda") or (device == "auto" and gpus):
        each = max(1, processors // max(gpus, 1))
        return max(gpus, 1), Workers.of(MOST_IN_BLOCK, processors=each), {"num_cpus": each, "num_gpus": 1}
    return max(processors, 1), Workers(1, 1), {"num_cpus": 1}


def _ray(here: bool) -> Any:
    """Ray with its data part, quiet, telling nobody of its use; what stays here listens to this machine
    alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong comes back as an exception, too
    if here:  # Ray's own word for that; on Linux it replaces 127.0.0.1 by an address that others reach
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise missing("ray") from None
    logging.getLogger("ray.data").setLevel(
        logging.CRITICAL
    )  # it prints whole stacks for what is told in one line here
    context: Any = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_errored_blocks = -1
    return ray


def _connect(ray: Any, address: str) -> None:
    """To a cluster, or start one of this machine's processors."""
    own = {"num_cpus": thread_count(None), "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:  # a part that does not start raises a bare one
        reason = (" ".join(str(error).split()) or type(error).__name__)[:160]
        cure = "end what else runs here" if own else "start one with ray start --head, or give --ray local"
        raise ConnectionError(f"no Ray cluster at {address} ({reason}); {cure}") from None


def _everywhere(weights: Any) -> Any:
    """A path that workers understand, whose working directory is another."""
    return str(Path(weights).absolute()) if weights is not None and Path(weights).exists() else weights


def _clock_of(folder: Path) -> int:
    """Now, in nanoseconds since 1970, on the clock of a folder's file system."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".clock-{os.getpid()}"
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime_ns
    finally:
        probe.unlink(missing_ok=True)


def _packed(outcome: Outcome) -> str:
    """An outcome as one text, so that Arrow need not guess types from empty lists."""
    row = asdict(outcome)
    del row["job"]
    return json.dumps([str(outcome.job.photo), str(outcome.job.target), row])


def _unpacked(text: str) -> Outcome:
    photo, target, row = json.loads(text)
    return Outcome(Job(Path(photo), Path(target)), **row)


def _as_asked(outcome: Outcome, job: Job) -> Outcome:
    """With the names that the photo was given by here."""
    error = outcome.error and outcome.error.replace(str(outcome.job.photo), str(job.photo))
    return replace(outcome, job=job, error=error)
