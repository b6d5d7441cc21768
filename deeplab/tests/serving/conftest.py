import pytest

from deeplab.model.segmentation import Model
from deeplab.weights.store import Card

NAMES = ("background", "cat", "<dog>")


@pytest.fixture
def small(narrow):
    """A model with few channels; one class name must be escaped in HTML."""
    card = Card("deeplab-largefov", NAMES, crf={"normalization": "after"})
    return Model(narrow("deeplab-largefov"), card, precision="fp32")


@pytest.fixture
def results():
    """The result cache of the page."""
    from deeplab.serving.result_cache import ResultCache

    return ResultCache()


@pytest.fixture
def queue():
    """A work queue with five slots."""
    from deeplab.serving.queue import WorkQueue

    with WorkQueue(1, 4) as opened:
        yield opened


@pytest.fixture(scope="module")
def decoder():
    """Decoder processes."""
    from deeplab.serving.decoder_process import DecoderPool

    with DecoderPool() as pool:
        yield pool


@pytest.fixture
def services(small, queue, decoder, results, tmp_path):
    """What the tabs of the page share; uploads are in ``tmp_path``."""
    from deeplab.serving.limits import Limits
    from deeplab.serving.page_services import PageServices
    from deeplab.serving.upload_store import UploadStore

    uploads = UploadStore(tmp_path, Limits())
    return PageServices(small, Limits(seconds=30), queue, decoder, uploads, results)
