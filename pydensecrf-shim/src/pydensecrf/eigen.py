"""See ``densecrf.pydensecrf.eigen``."""

from densecrf.pydensecrf.eigen import *  # noqa: F403
