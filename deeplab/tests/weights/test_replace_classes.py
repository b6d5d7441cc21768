import pytest
import torch

from deeplab.network.architecture import build
from deeplab.weights.class_replacement import replace_classes
from deeplab.weights.store import Card


@pytest.mark.parametrize("variant", ["deeplab-largefov", "deeplab-msc-largefov"])
def test_classes_with_the_same_names_are_kept(variant):
    torch.manual_seed(0)
    network = build(variant, classes=4)
    card = Card(variant, ("background", "cat", "dog", "bus"), crf={"appearance_weight": 4.0})
    fresh, own, report = replace_classes(network, card, ("background", "tree", "dog"))
    assert (report.kept, report.new, report.dropped) == (("background", "dog"), ("tree",), ("cat", "bus"))
    assert report.summary() == "kept by name: background, dog; new, to be trained: tree; dropped: cat, bus"
    assert own.class_names == ("background", "tree", "dog")
    assert own.crf == card.crf
    assert own.provenance["classes replaced"] == report.summary()
    before, after = network.state_dict(), fresh.state_dict()
    classifiers = [name for name in after if after[name].shape != before[name].shape]
    assert set(classifiers) >= {"fc8.weight", "fc8.bias"}
    for name, value in after.items():
        if name in classifiers:
            assert torch.equal(value[[0, 2]], before[name][[0, 2]])
        else:
            assert torch.equal(value, before[name])


def test_classes_are_matched_by_name_and_not_by_number():
    torch.manual_seed(0)
    network = build(classes=3)
    fresh, _, _ = replace_classes(
        network, Card("deeplab-largefov", ("background", "cat", "dog")), ("dog", "cow", "background")
    )
    assert torch.equal(fresh.fc8.weight[0], network.fc8.weight[2])
    assert torch.equal(fresh.fc8.weight[2], network.fc8.weight[0])
    assert not torch.equal(fresh.fc8.weight[1], network.fc8.weight[1])


@pytest.mark.parametrize(
    ("names", "message"), [(("a",), "got 1 classes"), (("a", "b", "a"), "a is listed twice")]
)
def test_invalid_class_lists(names, message):
    with pytest.raises(ValueError, match=message):
        replace_classes(build(classes=3), Card("deeplab-largefov", ("a", "b", "c")), names)


def test_a_model_for_other_classes(model):
    other, report = model.replace_classes(["background", "cat", "lamp"])
    assert other.class_names == ("background", "cat", "lamp")
    assert report.new == ("lamp",)
