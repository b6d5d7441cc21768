"""The fully connected CRF as a PyTorch module: batches, any device, gradients, learnable parameters.

crf = densecrf.torch.DenseCRF()
logits = crf(image, logits)    # (B, C, H, W) in 0-255, (B, K, H, W) -> (B, K, H, W)

Needs ``pip install 'densecrf[torch]'``; ``import densecrf`` alone does not load torch.
"""

from densecrf.torch.attention import Attention
from densecrf.torch.inference import mean_field
from densecrf.torch.kernel import Kernel
from densecrf.torch.lattice import Lattice
from densecrf.torch.loss import DenseCRFLoss
from densecrf.torch.module import DenseCRF

__all__ = ["Attention", "DenseCRF", "DenseCRFLoss", "Kernel", "Lattice", "mean_field"]
