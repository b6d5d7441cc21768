"""Folders of photos: jobs that resume, several workers, Ray."""

from typing import TYPE_CHECKING

from deeplab.lazy import public_names

if TYPE_CHECKING:
    from deeplab.bulk.inputs import plan as plan
    from deeplab.bulk.jobs import Job as Job
    from deeplab.bulk.jobs import Settings as Settings
    from deeplab.bulk.manifest import Manifest as Manifest
    from deeplab.bulk.ray import run_on_ray as run_on_ray
    from deeplab.bulk.workers import Workers as Workers
    from deeplab.bulk.workers import run as run

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "inputs": ["plan"],
        "jobs": ["Job", "Settings"],
        "manifest": ["Manifest"],
        "ray": ["run_on_ray"],
        "workers": ["Workers", "run"],
    },
)
