import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import caffe_file
from deeplab.weights.caffe import read_caffemodel

LAYERS = {
    "conv1_1": [np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3), np.array([1.5, -2.0], np.float32)],
    "fc8_voc12": [np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4, 1, 1), np.zeros(3, np.float32)],
}


def outcome(path):
    """The layers of a file, or the message of the ``ValueError``."""
    try:
        return read_caffemodel(path)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("age", ["layer", "layers", "v0"])
@pytest.mark.parametrize("double", [False, True])
def test_every_generation_of_caffe(tmp_path, age, double):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffe_file.model(LAYERS | {"relu": []}, age=age, double=double))
    found = read_caffemodel(path)
    assert list(found) == list(LAYERS)
    for name, arrays in LAYERS.items():
        for array, wanted in zip(found[name], arrays, strict=True):
            np.testing.assert_array_equal(array.reshape(wanted.shape), wanted)
    assert found["conv1_1"][0].shape == (2, 3, 3, 3)
    assert found["conv1_1"][1].shape == ((2,) if age == "layer" else (1, 1, 1, 2))


def test_numbers_one_by_one_and_in_parts(tmp_path):
    single = b"".join(caffe_file.varint(5 << 3 | 5) + np.float32(x).tobytes() for x in (1, 2, 3, 4))
    parts = caffe_file.field(5, np.float32([1, 2]).tobytes()) + caffe_file.field(
        5, np.float32([3, 4]).tobytes()
    )
    shape = caffe_file.field(7, caffe_file.field(1, 2) + caffe_file.field(1, 2))
    for data in (single, parts):
        layer = caffe_file.field(1, "fc") + caffe_file.field(7, data + shape)
        (tmp_path / "net").write_bytes(caffe_file.field(100, layer))
        assert read_caffemodel(tmp_path / "net")["fc"][0].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (caffe_file.field(5, b"\0" * 6), r"layer 'fc6': 6 bytes of numbers, wanted a multiple of 4"),
        (
            caffe_file.field(5, bytes(8)) + caffe_file.field(1, 2**40),
            r"2 numbers for the shape \(1099511627776, 0",
        ),
        (caffe_file.field(7, caffe_file.field(1, bytes(range(1, 10)))), "more than 8 axes"),
        (
            caffe_file.varint(5 << 3 | 2) + caffe_file.varint(2**40),
            r"a field of 1099511627776 bytes where 0 are left",
        ),
        (caffe_file.varint(3 << 3 | 3), "wire type 3"),
        (b"\xff" * 11, "more than 64 bits"),
        (b"\x80", "ends within a number"),
        (caffe_file.field(7, 3), "a number where a message should be"),
    ],
)
def test_errors_are_one_line_and_name_the_layer(tmp_path, blob, message):
    good = caffe_file.model({"conv1_1": LAYERS["conv1_1"]})
    (tmp_path / "net").write_bytes(
        good + caffe_file.field(100, caffe_file.field(1, "fc6") + caffe_file.field(7, blob))
    )
    with pytest.raises(ValueError, match=message) as caught:
        read_caffemodel(tmp_path / "net")
    assert "\n" not in str(caught.value)
    assert "after layer 'conv1_1'" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"name: 'net' layer {}", caffe_file.model({"relu": []})])
def test_files_without_weights(tmp_path, content):
    (tmp_path / "net").write_bytes(content)
    with pytest.raises(ValueError, match=r"wanted a \.caffemodel file"):
        read_caffemodel(tmp_path / "net")


def test_every_truncation_is_an_error_or_fewer_layers(tmp_path):
    whole = caffe_file.model(LAYERS)
    for length in range(len(whole)):
        (tmp_path / "net").write_bytes(whole[:length])
        found = outcome(tmp_path / "net")
        assert set(found) < set(LAYERS) if isinstance(found, dict) else "\n" not in found


def test_ten_thousand_mutations(tmp_path):
    rng = random.Random(0)
    originals = [caffe_file.model(LAYERS, age=age) for age in ("layer", "layers", "v0")]
    largest = max(map(len, originals)) * 2
    path, outcomes = tmp_path / "net", {"read": 0, "refused": 0}
    tracemalloc.start()
    for number in range(10_000):
        content = bytearray(originals[number % 3])
        for _ in range(rng.randint(1, 3)):
            position = rng.randrange(len(content))
            match rng.randrange(4):
                case 0:
                    content[position] ^= 1 << rng.randrange(8)
                case 1:
                    content[position : position + rng.randint(1, 9)] = rng.randbytes(rng.randint(0, 9))
                case 2:
                    content[position:position] = caffe_file.varint(
                        rng.choice((2**31, 2**32 - 1, 2**63, 2**64 - 1))
                    )
                case 3:
                    content = (
                        content[:position]
                        + content[position : position + rng.randint(1, 40)]
                        + content[position:]
                    )
        path.write_bytes(content)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        found = outcome(path)
        if isinstance(found, dict):
            assert sum(array.nbytes for blobs in found.values() for array in blobs) <= len(content)
        else:
            assert "\n" not in found
        outcomes["read" if isinstance(found, dict) else "refused"] += 1
        assert tracemalloc.get_traced_memory()[1] - before < 50 * largest + 200_000
    tracemalloc.stop()
    assert min(outcomes.values()) > 500  # many files of both kinds


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.caffemodel"
    path.write_bytes(content)
    assert outcome(path)
