"""The fully connected CRF as a PyTorch module: batches, any device, gradients, parameters that learn.

crf = densecrf.torch.DenseCRF()
logits = crf(image, logits)    # (B, C, H, W) in 0-255, (B, K, H, W) -> (B, K, H, W)

Needs ``pip install 'densecrf[torch]'``; ``import densecrf`` alone loads no torch.
"""

from densecrf.torch.attention import Attention
from densecrf.torch.kernel import Kernel, mean_field
from densecrf.torch.lattice import Lattice
from densecrf.torch.module import DenseCRF

__all__ = ["Attention", "DenseCRF", "Kernel", "Lattice", "mean_field"]
