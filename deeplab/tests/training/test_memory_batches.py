import numpy as np
import pytest
import torch
from PIL import Image

from deeplab.datasets.opening import Sample
from deeplab.network.architecture import VARIANTS
from deeplab.network.preprocessing import Preparation
from deeplab.training.augmentation import Augmentation
from deeplab.training.batches import Batches
from deeplab.training.distillation import Teacher
from deeplab.training.memory_batches import MemoryBatches
from deeplab.training.photo_store import PhotoStore

CPU = torch.device("cpu")
VARIANT = VARIANTS["deeplab-largefov"]
SIZES = [(40, 61), (72, 53), (30, 90), (64, 64)]


def smooth_samples(folder, sizes=SIZES):
    """Smooth photos with labels of large areas, as files."""
    rng = np.random.default_rng(0)
    samples = []
    for number, (height, width) in enumerate(sizes):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        photo = coarse.resize((width, height), Image.Resampling.BICUBIC)
        labels = np.zeros((height, width), np.uint8)
        labels[height // 3 :, : width // 2] = number + 1
        labels[: height // 4, width // 2 :] = 9
        labels[:3, :5] = 255
        photo.save(folder / f"{number}.png")
        Image.fromarray(labels).save(folder / f"{number}_mask.png")
        samples.append(Sample(str(number), folder / f"{number}.png", folder / f"{number}_mask.png"))
    return samples


def both(samples, augmentation, *, teacher=None, batch=6, extra=0, sources=None, **options):
    """The same batches read from files and made of photos in memory."""
    sources = sources or [samples]
    common = {"batch": batch, "extra": extra, "slots": slice(0, batch), "seed": 3, "teacher": teacher}
    files = Batches(sources, VARIANT, Preparation(), augmentation, workers=1, warn=pytest.fail, **common)
    store = PhotoStore(sources, side=96, device=CPU, workers=2, on_problem=pytest.fail)
    memory = MemoryBatches(store, VARIANT, Preparation(), augmentation, classes=12, **common, **options)
    return files, memory


def test_at_full_scale_the_batches_are_those_read_from_files(tmp_path):
    files, memory = both(smooth_samples(tmp_path), Augmentation(49))
    for step in (0, 1, 7):
        expected, found = next(files.from_step(step)), next(memory.from_step(step))
        padding = found[0] == 0  # exactly the mean colour; from files it is rounded to whole levels
        torch.testing.assert_close(found[0][~padding], expected[0][~padding], atol=5e-3, rtol=0)
        assert expected[0][padding].abs().max() <= 0.5
        assert torch.equal(found[1], expected[1])
        assert found[1].dtype == torch.uint8


def test_resized_crops_and_their_labels_are_nearly_those_read_from_files(tmp_path):
    files, memory = both(smooth_samples(tmp_path), Augmentation(49, True, 0.5, 2.0, 0.2))
    for step in range(6):
        expected, found = next(files.from_step(step)), next(memory.from_step(step))
        difference = (found[0] - expected[0]).abs()
        assert difference.mean() < 1.5  # levels of 255; files round to whole levels twice
        assert difference.max() < 40
        assert (found[1] == expected[1]).float().mean() > 0.98  # a tie may fall to either side of an edge
        assert ((found[1] == 255) == (expected[1] == 255)).float().mean() > 0.995


def test_two_sources_share_a_batch_as_from_files(tmp_path):
    samples = smooth_samples(tmp_path)
    files, memory = both(samples, Augmentation(33), extra=2, sources=[samples[:3], samples[3:]])
    expected, found = next(files.from_step(5)), next(memory.from_step(5))
    assert torch.equal(found[1], expected[1])


def test_soft_targets_are_those_of_the_files_teacher(tmp_path):
    samples = smooth_samples(tmp_path)
    rng = np.random.default_rng(1)
    canvas = [
        (width, height, round(513 * width / max(height, width)), round(513 * height / max(height, width)))
        for height, width in SIZES
    ]
    np.savez(
        tmp_path / "t.npz",
        ids=np.array([sample.name for sample in samples]),
        scale=0.05,
        zero_point=128,
        logits_u8=rng.integers(0, 256, (4, 33, 33, 12), dtype=np.uint8),
        width_height_canvasw_canvash=np.array(canvas),
    )
    teacher = Teacher([tmp_path / "t.npz"], 12, [sample.name for sample in samples])
    files, memory = both(samples, Augmentation(49, True, 0.6, 1.6), teacher=teacher)
    expected, found = next(files.from_step(2)), next(memory.from_step(2))
    torch.testing.assert_close(found[2], expected[2], atol=2e-4, rtol=0)


def test_mixing_pastes_whole_classes_of_the_next_crop_with_their_labels(tmp_path):
    samples = smooth_samples(tmp_path)
    augmentation = Augmentation(41, False)
    _, plain = both(samples, augmentation)
    _, mixed = both(samples, augmentation, mix=0.999)
    for step in range(4):
        photos, labels = next(plain.from_step(step))
        pasted_photos, pasted_labels = next(mixed.from_step(step))
        neighbours = labels.roll(-1, 0)
        changed = pasted_labels != labels
        assert torch.equal(pasted_labels[changed], neighbours[changed])
        for slot in range(len(labels)):
            present = set(neighbours[slot].unique().tolist()) - {0, 255}
            pasted = set(pasted_labels[slot][changed[slot]].unique().tolist())
            assert pasted <= present
            assert len(pasted) <= (len(present) + 1) // 2
        every_eighth = pasted_photos[:, :, ::8, ::8]
        assert torch.equal(
            every_eighth.permute(0, 2, 3, 1)[changed],
            photos.roll(-1, 0)[:, :, ::8, ::8].permute(0, 2, 3, 1)[changed],
        )
    assert changed.any()


def test_any_step_can_be_the_first(tmp_path):
    _, memory = both(smooth_samples(tmp_path), Augmentation(33, True, 0.7, 1.4, 0.3), mix=0.5)
    stream = memory.from_step(0)
    third = [next(stream) for _ in range(3)][2]
    for tensor, again in zip(third, next(memory.from_step(2)), strict=True):
        assert torch.equal(tensor, again)


def test_large_photos_are_resized_and_unreadable_ones_replaced(tmp_path):
    samples = smooth_samples(tmp_path, [(300, 150), (40, 61), (64, 50), (33, 47), (50, 40)])
    samples[2].photo.write_bytes(b"no picture")
    problems = []
    store = PhotoStore([samples], side=96, device=CPU, workers=2, on_problem=problems.append)
    assert store.sizes == [(96, 48), (40, 61), (0, 0), (33, 47), (50, 40)]
    assert len(problems) == 1
    assert problems[0].startswith("2: ")
    assert store.usable_row(0, 2) == 3
    assert set(store.labels[0].unique().tolist()) == {0, 1, 9, 255}


def test_too_many_unreadable_photos_stop_the_run(tmp_path):
    samples = smooth_samples(tmp_path, [(20, 30)] * 5)
    for sample in samples[:4]:
        sample.photo.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="4 photos cannot be used by now, so the run stops"):
        PhotoStore([samples], side=96, device=CPU, workers=1, on_problem=lambda line: None)
