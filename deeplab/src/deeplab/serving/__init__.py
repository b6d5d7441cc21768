"""The web page and the HTTP API."""

from typing import TYPE_CHECKING

from deeplab.lazy import public_names

if TYPE_CHECKING:
    from deeplab.serving.http import service as service
    from deeplab.serving.limits import HTTPError as HTTPError
    from deeplab.serving.limits import Limits as Limits
    from deeplab.serving.page import mount_page as mount_page
    from deeplab.serving.server import listen as listen
    from deeplab.serving.server import serve as serve

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "http": ["service"],
        "limits": ["HTTPError", "Limits"],
        "page": ["mount_page"],
        "server": ["listen", "serve"],
    },
)
