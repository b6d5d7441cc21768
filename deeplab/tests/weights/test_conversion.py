import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import caffe_file
import deeplab
import densecrf
from deeplab.classes import VOC_CLASSES
from deeplab.network.architecture import build
from deeplab.network.preprocessing import RELEASE, TORCHVISION, Preparation
from deeplab.weights.conversion import convert, decimate

CONVOLUTIONS = [
    f"conv{s}_{n + 1}" for s, depth in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)) for n in range(depth)
]
INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def pattern(*shape):
    """An array of fp16 whose entries differ, so that a wrong order of axes is noticed."""
    steps = np.zeros((), np.int32)
    for axis, (size, factor) in enumerate(zip(shape, (7, 11, 13, 17), strict=False)):
        steps = steps + factor * np.arange(size, dtype=np.int32).reshape(-1, *[1] * (len(shape) - 1 - axis))
    return ((steps % 1021).astype(np.float32) / 1021 - 0.5).astype(np.float16)


@pytest.fixture(scope="module")
def vgg():
    """A whole VGG-16 under this package's names, with axes (O, I, h, w)."""
    with torch.device("meta"):
        trunk = build().state_dict()
    arrays = {name: pattern(*value.shape) for name, value in trunk.items() if name.startswith("conv")}
    return arrays | {
        "fc6.weight": pattern(4096, 512, 7, 7),
        "fc6.bias": pattern(4096),
        "fc7.weight": pattern(4096, 4096, 1, 1),
        "fc7.bias": pattern(4096),
        "fc8.weight": pattern(1000, 4096, 1, 1),
        "fc8.bias": pattern(1000),
    }


def torchvision_form(vgg):
    names = dict(zip(CONVOLUTIONS, (f"features.{i}" for i in INDICES), strict=True))
    names |= {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    flat = {
        name: a.reshape(len(a), -1) if name.startswith("fc") and a.ndim > 1 else a for name, a in vgg.items()
    }
    return {f"{names[name.split('.')[0]]}.{name.split('.')[1]}": a for name, a in flat.items()}


def timm_form(vgg):
    names = dict(zip(CONVOLUTIONS, (f"features.{i}" for i in INDICES), strict=True))
    names |= {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}
    return {f"{names[name.split('.')[0]]}.{name.split('.')[1]}": a for name, a in vgg.items()}


def keras_form(vgg):
    """(h, w, I, O), and fully connected layers on features in the order rows, columns, channels."""
    names = {name: f"block{name[4]}_conv{name[6]}" for name in CONVOLUTIONS}
    names |= {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}
    out = {}
    for name, a in vgg.items():
        layer, kind = name.split(".")
        if layer.startswith("fc") and a.ndim == 4:
            a = a.transpose(2, 3, 1, 0).reshape(-1, len(a))
        elif a.ndim == 4:
            a = a.transpose(2, 3, 1, 0)
        out[f"{names[layer]}/{'kernel' if kind == 'weight' else 'bias'}"] = np.ascontiguousarray(a)
    return out


def write(form, vgg, path):
    if form == "keras":
        np.savez(path, **keras_form(vgg))
        return path.with_name(path.name + ".npz")
    if form == "caffe":
        layers = {}
        for name, a in vgg.items():
            layer = name.split(".")[0]
            a = a.reshape(1, 1, len(a), -1) if layer.startswith("fc") and a.ndim == 4 else a
            layers.setdefault(layer, []).append(a)
        path.write_bytes(caffe_file.model(layers, age="layers"))
        return path
    arrays = torchvision_form(vgg) if form == "torchvision" else timm_form(vgg)
    save_file({name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}, path)
    return path


@pytest.mark.parametrize(
    ("form", "variant", "preparation"),
    [
        ("torchvision", "deeplab-largefov", TORCHVISION),
        ("timm", "deeplab-4x4", TORCHVISION),
        ("keras", "deeplab-7x7", Preparation()),
        ("caffe", "deeplab-largefov", Preparation()),
    ],
)
def test_a_whole_vgg16_of_every_program(vgg, tmp_path, form, variant, preparation):
    found = convert(write(form, vgg, tmp_path / "vgg16"), variant, seed=5)
    own = found.network.state_dict()
    for name in ("conv1_1.weight", "conv3_2.weight", "conv5_3.bias"):
        np.testing.assert_array_equal(own[name].numpy(), vgg[name].astype(np.float32))
    channels, kernel = own["fc6.weight"].shape[0], own["fc6.weight"].shape[-1]
    taps = {7: range(7), 4: (0, 2, 4, 6), 3: (0, 3, 6)}[kernel]
    # The filters of fc6 and fc7 that are drawn with this seed.
    rng = np.random.default_rng(5)
    fc6, fc7 = (np.sort(rng.choice(4096, channels, replace=False)) for _ in range(2))
    np.testing.assert_array_equal(own["fc6.bias"].numpy(), vgg["fc6.bias"][fc6].astype(np.float32))
    np.testing.assert_array_equal(own["fc7.bias"].numpy(), vgg["fc7.bias"][fc7].astype(np.float32))
    np.testing.assert_array_equal(
        own["fc6.weight"].numpy(), vgg["fc6.weight"][np.ix_(fc6, range(512), taps, taps)].astype(np.float32)
    )
    np.testing.assert_array_equal(
        own["fc7.weight"].numpy(), vgg["fc7.weight"][fc7][:, fc6].astype(np.float32)
    )
    assert found.untrained == ("fc8",)
    assert found.dropped == ()
    assert (
        found.reduced
        == {"deeplab-largefov": ("fc6", "fc7"), "deeplab-4x4": ("fc6",), "deeplab-7x7": ()}[variant]
    )
    assert found.card.class_names == VOC_CLASSES
    assert found.card.preparation == preparation
    assert "still random: fc8" in found.summary()
    assert not found.network.training


def release(variant, classes=21, **changes):
    """A file as in the authors' release, and the network whose weights it has."""
    torch.manual_seed(1)
    network = build(variant, classes=classes)
    layers = {}
    for name, value in network.state_dict().items():
        layer, a = name.rpartition(".")[0], value.numpy()
        if layer == "fc8":
            layer = "fc8_voc12"
        elif layer.startswith("branches"):
            _, branch, index = layer.split(".")
            layer = f"{branch}_{ {'0': 'conv', '3': 'fc', '6': 'ms'}[index] }"
        layers.setdefault(layer, []).append(a)
    layers = {
        name: changes.get(name, arrays) for name, arrays in layers.items() if changes.get(name, 1) is not None
    }
    return caffe_file.model(layers, age="layers"), network


@pytest.mark.parametrize("variant", ["deeplab-largefov", "deeplab-msc-largefov"])
def test_networks_of_the_release(tmp_path, variant):
    content, network = release(variant)
    (tmp_path / "train_iter_6000.caffemodel").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every layer fits
        model = deeplab.load(weights=tmp_path / "train_iter_6000.caffemodel")
    assert model.card.variant == variant
    assert model.card.preparation == RELEASE
    assert model.crf_params == densecrf.Params(normalization="after")
    assert model.class_names == VOC_CLASSES
    for name, value in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value)


def test_other_classes_keep_their_number(tmp_path):
    content, _ = release("deeplab-largefov", classes=7)
    (tmp_path / "net").write_bytes(content)
    assert convert(tmp_path / "net").card.class_names == tuple(f"class {i}" for i in range(7))
    names = ("a", "b", "c", "d", "e", "f", "g")
    assert convert(tmp_path / "net", class_names=names).card.class_names == names


def test_layers_that_do_not_fit_are_named_in_a_warning(tmp_path):
    content, _ = release("deeplab-msc-largefov", fc7=None)
    (tmp_path / "net").write_bytes(content)
    with pytest.warns(UserWarning, match=r"still random: fc7; left out: branches\.data\.0\.bias"):
        deeplab.load("deeplab-largefov", weights=tmp_path / "net")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv4_1": None}, r"conv4_1\.weight: found nothing, wanted \(512, 256, 3, 3\)"),
        (
            {"conv2_2": [np.zeros((128, 64, 3, 3)), np.zeros(128)]},
            r"conv2_2\.weight: found \(128, 64, 3, 3\), wanted \(128, 128, 3, 3\) for deeplab-largefov",
        ),
        (
            {"fc6": [np.zeros((1024, 512, 3, 4)), np.zeros(1024)]},
            r"fc6\.weight: found \(1024, 512, 3, 4\), wanted \(1024, 512, 3, 3\)",
        ),
        (
            {"conv1_2": [np.full((64, 64, 3, 3), np.nan), np.zeros(64)]},
            r"conv1_2\.weight: has numbers that are NaN",
        ),
        ({"conv1_2": [np.zeros((64, 3, 3, 64)), np.zeros(64)]}, r"conv1_2\.weight: found \(64, 3, 3, 64\)"),
    ],
)
def test_errors_name_the_layer_and_both_shapes(tmp_path, changes, message):
    (tmp_path / "net").write_bytes(release("deeplab-largefov", **changes)[0])
    with pytest.raises(ValueError, match=message) as caught:
        convert(tmp_path / "net")
    assert "\n" not in str(caught.value)


def test_a_trunk_without_head(vgg, tmp_path):
    names = {
        name: f"{name.split('.')[0]}_{'W' if 'weight' in name else 'b'}" for name in vgg if name[:4] == "conv"
    }
    np.savez(tmp_path / "vgg.npz", **{file_name: vgg[name] for name, file_name in names.items()})
    found = convert(tmp_path / "vgg.npz")
    assert found.untrained == ("fc6", "fc7", "fc8")
    own = found.network.state_dict()["conv3_2.weight"].numpy()
    np.testing.assert_array_equal(own, vgg["conv3_2.weight"].astype(np.float32))
    again = convert(tmp_path / "vgg.npz").network
    assert torch.equal(again.fc6.weight, found.network.fc6.weight)  # random weights are the same in every run


def test_decimation_by_hand():
    weight = np.arange(49.0).reshape(1, 1, 7, 7)
    assert decimate(weight, 3)[0, 0].tolist() == [[0, 3, 6], [21, 24, 27], [42, 45, 48]]
    assert decimate(weight, 4)[0, 0, 1].tolist() == [14, 16, 18, 20]
    assert np.array_equal(decimate(weight, 7), weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}q\x00.", "a pickle can run code"),
        (b"\x89HDF\r\n\x1a\n", "HDF5 is not read"),
        (b"PK\x03\x04 not a zip", "wanted an .npz file, whole"),
        (b"\xff" * 40, "wanted a .caffemodel file, whole"),
        ((10**12).to_bytes(8, "little") + b"{}", "not a readable safetensors file"),
    ],
)
def test_files_of_unsupported_kinds(tmp_path, content, message):
    (tmp_path / "net").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        deeplab.load(weights=tmp_path / "net")
    assert "\n" not in str(caught.value)


def test_forged_and_unsupported_arrays_in_npz(tmp_path):
    path = tmp_path / "net.npz"
    for array, message in (
        (np.array([{}]), "has dtype object"),
        (np.zeros(3, int), "has dtype int64, wanted floats"),
    ):
        np.savez(path, conv1_1_W=array, allow_pickle=True)
        with pytest.raises(ValueError, match=message):
            convert(path)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999999), }"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("conv1_1_W.npy", member)
    with pytest.raises(
        ValueError, match=r"conv1_1\.weight: found \(99999999, 99999999\), wanted \(64, 3, 3, 3\)"
    ):
        convert(path)
    with zipfile.ZipFile(path, "w") as archive:  # the right shape, but no data
        archive.writestr("conv1_1_W.npy", member.replace(b"(99999999, 99999999)", b"(64, 3, 3, 3)"))
    with pytest.raises(ValueError, match=r"net\.npz"):
        convert(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    with pytest.raises(ValueError, match="a pickle can run code"):
        convert(path)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*net; wanted weights"):
        convert(tmp_path / "net")
