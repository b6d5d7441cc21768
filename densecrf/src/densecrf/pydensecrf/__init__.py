"""A drop-in for pydensecrf: scripts change their import lines and nothing else.

    import densecrf.pydensecrf as dcrf                               # was: import pydensecrf.densecrf as dcrf
    from densecrf.pydensecrf.utils import unary_from_softmax         # was: from pydensecrf.utils import …

For code that cannot be edited, ``install()`` provides the name ``pydensecrf`` itself.

Results are those of pydensecrf. Arrays of any real type and layout are accepted, an error names an unusable
array, and inference uses all processors and releases the interpreter's lock.
"""

from densecrf.pydensecrf import eigen
from densecrf.pydensecrf.densecrf import (
    CONST_KERNEL,
    DIAG_KERNEL,
    FULL_KERNEL,
    NO_NORMALIZATION,
    NORMALIZE_AFTER,
    NORMALIZE_BEFORE,
    NORMALIZE_SYMMETRIC,
    ConstUnary,
    DenseCRF,
    DenseCRF2D,
    KernelType,
    LogisticUnary,
    NormalizationType,
    Unary,
)
from densecrf.pydensecrf.import_name import install
from densecrf.pydensecrf.utils import (
    compute_unary,
    create_pairwise_bilateral,
    create_pairwise_gaussian,
    softmax_to_unary,
    unary_from_labels,
    unary_from_softmax,
)

__all__ = [
    "CONST_KERNEL",
    "DIAG_KERNEL",
    "FULL_KERNEL",
    "NORMALIZE_AFTER",
    "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION",
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "KernelType",
    "LogisticUnary",
    "NormalizationType",
    "Unary",
    "compute_unary",
    "create_pairwise_bilateral",
    "create_pairwise_gaussian",
    "eigen",
    "install",
    "softmax_to_unary",
    "unary_from_labels",
    "unary_from_softmax",
]
