"""One of two processes that each take half of a batch and share the gradients of a CRF's parameters."""

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from densecrf.torch import DenseCRF


def check_shared_gradients(rank, meeting):
    """Assert that this process has the gradients of the whole batch; ``meeting`` is a file both can write."""
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(seconds=240)
    )
    try:
        shared = DenseCRF(iterations=2, compatibility=1 - torch.eye(3), threads=1)
        alone = DenseCRF(iterations=2, compatibility=1 - torch.eye(3), threads=1)
        parallel = torch.nn.parallel.DistributedDataParallel(shared)
        rng = torch.Generator().manual_seed(0)
        images, logits = 255 * torch.rand(2, 3, 7, 9, generator=rng), torch.randn(2, 3, 7, 9, generator=rng)
        alone(images, logits).square().mean().backward()
        parallel(images[rank : rank + 1], logits[rank : rank + 1]).square().mean().backward()
        for parameter, expected in zip(shared.parameters(), alone.parameters(), strict=True):
            if expected.grad is not None:
                torch.testing.assert_close(parameter.grad, expected.grad)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    check_shared_gradients(int(sys.argv[1]), sys.argv[2])
    print("same gradients", flush=True)
    os._exit(0)  # torch may wait for its own threads for ever when the process ends in the usual way
