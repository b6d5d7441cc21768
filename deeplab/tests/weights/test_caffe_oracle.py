"""Scores of a .caffemodel file, compared with those of OpenCV, which has its own reader."""

import numpy as np
import pytest
import torch

import caffe_file
from deeplab.network.architecture import build
from deeplab.network.layer_table import describe
from deeplab.weights.conversion import convert

cv2 = pytest.importorskip("cv2")

STAGES = (("conv1", 2, 1), ("conv2", 2, 1), ("conv3", 3, 1), ("conv4", 3, 1), ("conv5", 3, 2))


def prototxt(size):
    """The release's test.prototxt of LargeFOV, with its ``hole`` as ``dilation``, Caffe's later name."""
    text = ["name: 'net'", "input: 'data'", *(f"input_dim: {n}" for n in (1, 3, *size))]
    bottom = "data"

    def layer(name, kind, parameters, top=None):
        nonlocal bottom
        text.append(
            f"layer {{ name: '{name}' type: '{kind}' bottom: '{bottom}' top: '{top or name}' {parameters} }}"
        )
        bottom = top or name

    def convolution(name, outputs, kernel, pad, rate):
        layer(
            name,
            "Convolution",
            f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} pad: {pad} "
            f"dilation: {rate} }}",
        )

    def pool(name, kind, stride):
        layer(name, "Pooling", f"pooling_param {{ pool: {kind} kernel_size: 3 stride: {stride} pad: 1 }}")

    channels = {row.name: row.channels for row in describe()}
    for stage_number, (stage, depth, rate) in enumerate(STAGES, 1):
        for number in range(1, depth + 1):
            convolution(f"{stage}_{number}", channels[f"{stage}_{number}"], 3, rate, rate)
            layer(f"relu{stage_number}_{number}", "ReLU", "", top=bottom)
        pool(f"pool{stage_number}", "MAX", 2 if stage_number < 4 else 1)
    pool("pool5a", "AVE", 1)
    for name, kernel, pad, rate in (("fc6", 3, 12, 12), ("fc7", 1, 0, 1)):
        convolution(name, 1024, kernel, pad, rate)
        layer(f"relu_{name}", "ReLU", "", top=bottom)
    convolution("fc8_voc12", 21, 1, 0, 1)
    return "\n".join(text)


@pytest.mark.parametrize("age", ["layer", "layers"])
def test_scores_of_the_release_as_opencv_computes_them(tmp_path, age):
    torch.manual_seed(2)
    network = build()
    layers = {}
    for name, value in network.state_dict().items():
        layer = name.rpartition(".")[0]
        layers.setdefault("fc8_voc12" if layer == "fc8" else layer, []).append(value.numpy())
    (tmp_path / "net.caffemodel").write_bytes(caffe_file.model(layers, age=age))
    size = (97, 129)
    (tmp_path / "test.prototxt").write_text(prototxt(size))
    batch = (60 * np.random.default_rng(0).standard_normal((1, 3, *size))).astype(np.float32)

    oracle = cv2.dnn.readNetFromCaffe(str(tmp_path / "test.prototxt"), str(tmp_path / "net.caffemodel"))
    oracle.setInput(batch)
    wanted = oracle.forward()
    with torch.inference_mode():
        found = convert(tmp_path / "net.caffemodel").network(torch.from_numpy(batch)).numpy()
    assert found.shape == wanted.shape == (1, 21, 13, 17)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
