"""pydensecrf's import name, provided by ``densecrf.pydensecrf``."""

from pydensecrf import densecrf, eigen, utils

__all__ = ["densecrf", "eigen", "utils"]
