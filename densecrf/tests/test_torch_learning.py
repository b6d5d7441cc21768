import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densecrf import Params
from scenes import scene

torch = pytest.importorskip("torch", reason="torch is not installed")
from densecrf.torch import DenseCRF  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_volume_example():
    before, after = example("volume_crf").main([])
    assert before > 0.2
    assert after < 0.1 * before


def test_video_example_in_which_frames_help_each_other():
    alone, frame_by_frame, joined = example("video_crf").main(["--size", "6", "30", "48"])
    assert joined < 0.5 * frame_by_frame < 0.5 * alone


def test_learning_example_improves_held_out_photos(tmp_path):
    table = example("learn_crf").main(["--photos", "12", "--epochs", "4", "--out", str(tmp_path)])
    losses = {name: loss for name, (loss, _) in table.items()}
    ious = {name: iou for name, (_, iou) in table.items()}
    assert losses["learned CRF"] < 0.5 * min(losses["initial CRF"], losses["no CRF"])
    assert ious["learned CRF"] > max(ious["initial CRF"], ious["no CRF"])
    params = Params(**json.loads((tmp_path / "params.json").read_text()))
    assert params.appearance_weight > 0
    assert np.load(tmp_path / "compatibility.npy").shape == (3, 3)


def test_learning_example_reads_cached_scores(tmp_path):
    module = example("learn_crf")
    for number in range(4):
        image, scores, labels = module.generate_samples(number + 1, 20, 28)[-1]
        np.savez(
            tmp_path / f"{number}.npz",
            image=image[0].permute(1, 2, 0).numpy().astype(np.uint8),
            scores=scores[0].numpy().astype(np.float16),
            labels=np.where(labels[0].numpy() == 1, 255, labels[0].numpy()).astype(np.uint8),  # some void
        )
    table = module.main(["--scores", str(tmp_path), "--epochs", "1"])
    assert all(np.isfinite(figures).all() for figures in table.values())
    np.savez(tmp_path / "3.npz", image=np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"3.npz: lacks labels, scores; wanted image, scores and labels"):
        module.main(["--scores", str(tmp_path)])


def test_learning_corrects_a_wrong_width():
    # The areas differ in colour, which a width of 200 levels cannot see and a narrower one can.
    photo, probabilities, areas = scene(20, 28, 3)
    image, target = torch.from_numpy(photo).permute(2, 0, 1)[None], torch.from_numpy(areas)[None]
    logits = torch.from_numpy(probabilities).log()[None].float()
    crf = DenseCRF(Params(appearance_rgb_std=200, smoothness_weight=0), iterations=3)
    crf.log_widths.requires_grad_()
    optimizer = torch.optim.Adam([crf.log_widths], lr=0.2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(crf(image, logits), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert crf.params().appearance_rgb_std < 120


def test_network_and_crf_learn_together():
    photo, _, areas = scene(20, 28, 3)
    image, target = torch.from_numpy(photo).permute(2, 0, 1)[None].float(), torch.from_numpy(areas)[None]
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 3, 1)
    crf = DenseCRF(Params(appearance_rgb_std=20), iterations=3)
    optimizer = torch.optim.Adam([*network.parameters(), *crf.parameters()], lr=0.05)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(crf(image, network(image / 255)), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_two_processes_share_gradients(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    import gradient_worker

    meeting = str(tmp_path / "meeting")
    workers = [
        subprocess.Popen(
            [sys.executable, gradient_worker.__file__, rank, meeting],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        for worker in workers:
            out, errors = worker.communicate(timeout=240)
            assert out.strip() == "same gradients", errors
    finally:
        for worker in workers:
            worker.kill()
