import io
import random
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from deeplab.weights.checkpoint_files import open_checkpoint

ARRAYS = {
    "conv1_1_W": np.arange(54, dtype=np.float16).reshape(2, 3, 3, 3),
    "conv1_1_b": np.array([1.5, -2.0]),
}


def npz(compressed):
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **ARRAYS)
    return buffer.getvalue()


def contents(path):
    """The arrays of a file, or the message of the ``ValueError``."""
    try:
        return {
            name: array.read()
            for name, array in open_checkpoint(path).arrays.items()
            if np.prod(array.shape) < 99
        }
    except ValueError as error:
        return str(error)


ORIGINALS = {
    "npz": npz(False),
    "compressed npz": npz(True),
    "safetensors": save({name: torch.from_numpy(array) for name, array in ARRAYS.items()}),
    "bf16 safetensors": save({name: torch.from_numpy(array).bfloat16() for name, array in ARRAYS.items()}),
}


@pytest.mark.parametrize("kind", ORIGINALS)
def test_round_trip_of_arrays(tmp_path, kind):
    (tmp_path / "net").write_bytes(ORIGINALS[kind])
    checkpoint = open_checkpoint(tmp_path / "net")
    assert checkpoint.form == ("numpy" if "npz" in kind else "safetensors")
    for name, array in ARRAYS.items():
        assert checkpoint.arrays[name].shape == array.shape
        np.testing.assert_array_equal(checkpoint.arrays[name].read(), array)


@pytest.mark.parametrize("kind", ORIGINALS)
def test_mutations_and_truncations(tmp_path, kind):
    rng, path, seen = random.Random(1), tmp_path / "net", set()
    for _ in range(1500):
        content = bytearray(ORIGINALS[kind])
        for _ in range(rng.randint(0, 3)):
            position = rng.randrange(len(content))
            content[position : position + rng.randint(0, 4)] = rng.randbytes(rng.randint(0, 4))
        path.write_bytes(content[: rng.choice((len(content), rng.randrange(len(content)) + 1))])
        found = contents(path)
        seen.add(type(found))
        assert isinstance(found, dict) or "\n" not in found
    assert seen == {dict, str}


def test_a_member_that_unpacks_to_more_than_its_shape(tmp_path):
    # A zip bomb: the array has two numbers and its member 200 MB of zeros, which are not read.
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(2, np.float32))
    with zipfile.ZipFile(tmp_path / "net", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv1_1_b.npy", buffer.getvalue() + bytes(200_000_000))
    assert contents(tmp_path / "net")["conv1_1_b"].tolist() == [0, 0]
