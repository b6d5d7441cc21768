"""Ray itself: importing it quietly, connecting to a cluster, and sharing the cluster's processors."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deeplab.bulk.workers import Workers
from deeplab.optional import missing
from densecrf.threads import thread_count


@dataclass(frozen=True)
class ClusterShare:
    """How a cluster is divided among worker processes."""

    processes: int
    """Number of worker processes."""
    workers: Workers
    """How the processors of one process are shared among photos."""
    resources: dict[str, float]
    """What one process takes of the cluster, as arguments of Ray."""


def share_cluster(resources: Mapping[str, float], device: str, photos: int) -> ClusterShare:
    """Divide a cluster: one processor for each process; or one GPU, with its part of the processors.

    Args:
        resources: number of "CPU" and "GPU" of the cluster.
        device: as in ``loading.load``; "auto" uses GPUs if there are any.
        photos: number of photos that a process gets together.
    """
    processors, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if device.startswith("cuda") or (device == "auto" and gpus):
        each = max(1, processors // max(gpus, 1))
        workers = Workers.of(photos, processors=each)
        return ClusterShare(max(gpus, 1), workers, {"num_cpus": each, "num_gpus": 1})
    return ClusterShare(max(processors, 1), Workers(1, 1), {"num_cpus": 1})


def import_ray(*, local: bool) -> Any:
    """Import Ray with its data part, without progress bars and usage reports.

    Args:
        local: whether a cluster on this machine is meant; it then listens on the loopback interface only.

    Raises:
        ModuleNotFoundError: if Ray is not installed; says how to get it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors come back as exceptions, too
    if local:  # without this Ray replaces 127.0.0.1 by an address that other machines can reach, on Linux too
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise missing("ray") from None
    # Ray Data logs whole stack traces of errors that are reported here in one line.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context: Any = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_errored_blocks = -1
    return ray


def connect(ray: Any, address: str) -> None:
    """Connect to a cluster, or start one on this machine.

    Args:
        ray: the module.
        address: "local" to start a cluster with the processors of this process, "auto", or HOST:PORT.

    Raises:
        ConnectionError: if there is no cluster at the address, or it cannot be started.
    """
    is_local = address == "local"
    options = {"num_cpus": thread_count(None), "include_dashboard": False} if is_local else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except Exception as error:  # Ray raises a bare Exception if one of its processes does not start
        reason = (" ".join(str(error).split()) or type(error).__name__)[:160]
        advice = "start one with ray start --head, or give --ray local"
        if is_local:
            advice = "end what else runs here"
        raise ConnectionError(f"no Ray cluster at {address} ({reason}); {advice}") from None
