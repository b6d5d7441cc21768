"""Fully connected CRFs with Gaussian kernels: class scores and an image in, sharp label maps out.

marginals = densecrf.refine(image, probabilities)    # (H, W, 3) uint8, (K, H, W) -> (K, H, W) float32
"""

from densecrf.bulk import refine_many
from densecrf.crf import DenseCRF
from densecrf.kernels import Bilateral, Features, Gaussian
from densecrf.lattice import Lattice
from densecrf.mask_sharpening import sharpen
from densecrf.params import Params
from densecrf.refinement import refine
from densecrf.unary import unary_from_labels, unary_from_logits, unary_from_probabilities

__version__ = "0.1.0"
__all__ = [
    "Bilateral",
    "DenseCRF",
    "Features",
    "Gaussian",
    "Lattice",
    "Params",
    "refine",
    "refine_many",
    "sharpen",
    "unary_from_labels",
    "unary_from_logits",
    "unary_from_probabilities",
]
