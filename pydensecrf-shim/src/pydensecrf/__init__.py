"""pydensecrf's import name, provided by ``densecrf.pydensecrf``."""
