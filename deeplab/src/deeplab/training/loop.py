"""Train a network by a recipe, on a CPU, a GPU, or many of them; stopped at any moment, a run goes on where
it was."""

from __future__ import annotations

import copy
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from deeplab.drawing import overlay
from deeplab.evaluation.scoring import evaluate
from deeplab.model.predictor import Predictor
from deeplab.network.architecture import DeepLab
from deeplab.network.bfloat16 import has_bf16
from deeplab.optional import require
from deeplab.training.batch_norm import add_batch_norm, fold_batch_norm
from deeplab.training.batches import Example
from deeplab.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from deeplab.training.losses import (
    class_weights_of,
    cross_entropy_sum,
    dice_loss,
    soft_cross_entropy_sum,
    weight_of,
)
from deeplab.training.optimizer import RunningMean, freeze, optimizer_of, rate_at, set_rates
from deeplab.training.recipe import Recipe, read_recipe
from deeplab.training.run_folder import Run, memory_gigabytes
from deeplab.training.setup import TrainingSetup, prepare_training
from deeplab.weights.store import Card, save_weights

WEIGHTS, LAST = "weights.safetensors", "last.safetensors"  # of the best validation, and of the last
_PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and did, between two steps, with everything on disk."""


class _Trainee(nn.Module):
    """The network as steps call it: on photos, or on pool4 features that were computed before."""

    def __init__(self, network: DeepLab, *, cached: bool):
        super().__init__()
        self.network, self.cached = network, cached

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = (
            self.network.scores_from_pool4(batch.float()) if self.cached else self.network(batch)
        )
        return scores


def train(recipe: Recipe | str | Path, out: str | Path, *, resume: bool = False) -> Path:
    """Train, validate now and then, and keep the best weights.

    A run that was stopped goes on from its last checkpoint in ``out``, and on a CPU ends with the very
    numbers of a run that was not. BatchTab processes, started by torchrun, share each batch.

    Args:
        recipe: the experiment, or the TOML file it is in.
        out: folder for recipe, log, checkpoint and weights.
        resume: insist that there is a run to go on with.

    Returns:
        The best weights, ``out/weights.safetensors``, with their card beside them; those of the last
        validation are in ``out/last.safetensors``.

    Raises:
        FileNotFoundError: if data or weights are missing, or there is nothing to resume.
        ValueError: if ``out`` holds a run of another recipe, or data cannot be used.
        FloatingPointError: if the loss is no longer finite; nothing of that step is kept.
        ModuleNotFoundError: if Lightning Fabric is not installed.
        KeyboardInterrupt: once the checkpoint of the last whole step is on disk.

    Source: DeepLab, sections 4.1 and 5.1; the release's train and solver prototxt files.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    out = Path(out)
    if resume and not (out / "recipe.json").is_file():
        raise FileNotFoundError(f"{out} holds no run to go on with; leave --resume out to begin one")
    fabric = _fabric(recipe)
    if recipe.batch % (fabric.world_size * recipe.accumulate):
        raise ValueError(
            f"got batch = {recipe.batch} for {fabric.world_size} processes × accumulate = {recipe.accumulate}; "
            "wanted a multiple of their product"
        )
    if recipe.frozen_for and fabric.world_size > 1:
        raise ValueError(
            "frozen_for needs a single process; train in two runs, the second with init = the first's weights"
        )
    run = Run(out, recipe) if fabric.is_global_zero else None
    try:
        return _train(recipe, out, fabric, run)
    finally:
        if run is not None:
            run.close()


def _train(recipe: Recipe, out: Path, fabric: Any, run: Run | None) -> Path:
    study = prepare_training(recipe, out, fabric)
    network = study.network
    if recipe.head_norm:
        add_batch_norm(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    freeze(network, recipe.frozen)
    optimizer = optimizer_of(network, recipe)
    trainee, wrapped = fabric.setup(_Trainee(network, cached=recipe.cached_views > 0), optimizer)
    mean = RunningMean(network, recipe.ema) if recipe.ema else None
    progress = load_checkpoint(out, network, optimizer, mean) or Progress()
    if recipe.frozen_for and progress.step >= recipe.frozen_for:
        freeze(network, ())
    if run is not None:
        run.go_on_from(progress.step)
    weights = (
        class_weights_of(study.class_counts, recipe.class_weights) if recipe.class_weights != "none" else None
    )
    class_weights = None if weights is None else torch.from_numpy(weights).to(fabric.device)
    batches = study.batches.from_step(progress.step)
    begun, entered = progress.step, time.time()
    started = entered - progress.seconds
    bar = tqdm(
        total=recipe.steps, initial=progress.step, desc="train", unit="step", disable=None if run else True
    )
    stopped = False
    with _asked_to_stop() as asked, bar:
        while progress.step < recipe.steps and not stopped:
            if recipe.frozen_for and progress.step == recipe.frozen_for:
                freeze(network, ())
            rate = rate_at(recipe, progress.step)
            set_rates(optimizer, rate)
            trainee.train()
            torch.manual_seed((recipe.seed << 32) + progress.step * fabric.world_size + fabric.global_rank)
            with torch.backends.cudnn.flags(
                enabled=True, benchmark=True
            ):  # crops, unlike photos, are of one size
                loss = _step(fabric, trainee, wrapped, next(batches), recipe, class_weights, progress.step)
            if mean is not None:
                mean.update(network, progress.step)
            progress.step += 1
            progress.seconds = time.time() - started
            bar.update()
            speed = recipe.batch * (progress.step - begun) / (time.time() - entered)
            bar.set_postfix(
                loss=f"{loss:.3f}", lr=f"{rate:.1e}", images=f"{speed:.1f}/s", GB=f"{memory_gigabytes():.1f}"
            )
            if run is not None and (progress.step % 10 == 0 or progress.step == recipe.steps):
                run.log(progress.step, loss=loss, rate=rate, seconds=progress.seconds)
            last = progress.step == recipe.steps
            if progress.step % recipe.validate_every == 0 or last:
                _validate(recipe, study, network, mean, progress, run, fabric)
                stopped = bool(recipe.patience) and progress.worse >= recipe.patience
            asked_now = _any(fabric, bool(asked))
            if run is not None and (
                progress.step % recipe.checkpoint_every == 0 or last or stopped or asked_now
            ):
                save_checkpoint(out, network, optimizer, mean, progress)
            if asked_now and not last:
                raise Interrupted(
                    f"stopped after step {progress.step} of {recipe.steps}; the same command goes on there"
                )
    fabric.barrier()
    return out / WEIGHTS


def _step(
    fabric: Any,
    trainee: Any,
    optimizer: Any,
    batch: Example,
    recipe: Recipe,
    class_weights: torch.Tensor | None,
    step: int,
) -> float:
    """One step of all processes: the mean loss over the valid positions of the whole batch goes down."""
    _, targets, *_ = tensors = [tensor.to(fabric.device, non_blocking=True) for tensor in batch]
    total = fabric.all_reduce(weight_of(targets, class_weights), reduce_op="sum").clamp(min=1)
    parts = recipe.accumulate
    spent = torch.zeros((), device=fabric.device)
    for part, (photos, ids, *soft) in enumerate(
        zip(*(tensor.chunk(parts) for tensor in tensors), strict=True)
    ):
        with fabric.no_backward_sync(trainee, enabled=True) if part < parts - 1 else nullcontext():
            scores = trainee(photos.contiguous(memory_format=torch.channels_last)).float()
            loss = cross_entropy_sum(scores, ids, class_weights=class_weights, focal=recipe.focal)
            for probabilities in soft:
                taught = soft_cross_entropy_sum(scores, probabilities)
                loss = (1 - recipe.teacher_share) * loss + recipe.teacher_share * taught
            loss = loss * (fabric.world_size / total)  # processes' gradients are averaged, not added
            if recipe.dice:
                loss = loss + recipe.dice / parts * dice_loss(scores, ids)
            spent += loss.detach()
            fabric.backward(loss)
    mean_loss = float(fabric.all_reduce(spent, reduce_op="mean"))
    if not math.isfinite(mean_loss):
        raise FloatingPointError(
            f"the loss is {mean_loss} at step {step + 1}; nothing of this step was kept. Begin anew with a lower rate, "
            "a warm-up, or clip = 10 (--set rate=…, --set warmup=…, --set clip=10)"
        )
    if recipe.clip:
        fabric.clip_gradients(trainee, optimizer, max_norm=recipe.clip, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return mean_loss


def _validate(
    recipe: Recipe,
    study: TrainingSetup,
    network: DeepLab,
    mean: RunningMean | None,
    progress: Progress,
    run: Run | None,
    fabric: Any,
) -> None:
    """Score the network, or its running mean, and keep it if it is the best so far."""
    score = torch.zeros(())
    if run is not None:
        scored = copy.deepcopy(network)
        if mean is not None:
            scored.load_state_dict(mean.tensors)
        if recipe.head_norm:
            fold_batch_norm(scored)
        scored = scored.float().eval()
        device = str(fabric.device)
        predictor = Predictor(scored, study.preparation, device=device)
        pairs = study.val[: recipe.validate_photos] if recipe.validate_photos else study.val
        seen: list[tuple[str, np.ndarray]] = []

        def predict(photo: np.ndarray) -> np.ndarray:
            labels = predictor.probabilities([photo])[0].argmax(0).astype(np.uint8)
            if len(seen) < 4:
                seen.append((f"val/{len(seen)}", overlay(photo, labels)))
            return labels

        bar = tqdm(pairs, desc="validate", unit="photo", leave=False, disable=None)
        scores = evaluate(predict, bar, class_names=study.class_names)
        summary = scores.summary()
        run.log(progress.step, **{name: value for name, value in summary.items() if np.isfinite(value)})
        for name, picture in seen:
            run.show(progress.step, name, picture)
        value = scores.mean_iou_of() if recipe.score == "mIoU-7" else scores.mean_iou
        value = value if np.isfinite(value) else 0.0
        tqdm.write(f"step {progress.step}: {recipe.score} {100 * value:.2f} %", file=sys.stderr)
        score = torch.tensor(value)
        provenance = study.provenance | {
            "recipe": asdict(recipe)
            | {key: Path(getattr(recipe, key)).name for key in ("data", "extra_data", "init")}
            | {"teacher": [Path(file).name for file in recipe.teacher]},
            "step": progress.step,
            "time": f"{progress.seconds / 60:.0f} minutes on {fabric.world_size} × {fabric.device.type}",
            "scores": {"network": summary},
        }
        card = Card(
            recipe.variant, study.class_names, study.preparation, provenance=provenance, size=study.size
        )
        for name in (LAST, WEIGHTS) if value > progress.best else (LAST,):
            save_weights(run.folder / name, scored.cpu(), card)
    value = float(fabric.broadcast(score))
    if value > progress.best:
        progress.best, progress.best_step, progress.worse = value, progress.step, 0
    else:
        progress.worse += 1


def _fabric(recipe: Recipe) -> Any:
    """Lightning Fabric on what there is: one process alone, or those that torchrun has started."""
    require("lightning_fabric", "training")
    from lightning_fabric import Fabric

    here, everywhere = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    gpu = torch.cuda.is_available() and recipe.device != "cpu"
    if recipe.device == "cuda" and not gpu:
        raise ValueError("got device = 'cuda', but torch sees no GPU here; 'cpu' always works")
    wanted = recipe.precision
    if wanted == "auto":
        low = has_bf16(torch.device("cuda" if gpu else "cpu"))
        wanted = "bf16" if low else "fp16" if gpu else "fp32"
    fabric = Fabric(
        accelerator="cuda" if gpu else "cpu",
        devices=here,
        num_nodes=everywhere // here,
        strategy="ddp" if everywhere > 1 else "auto",
        precision=_PRECISIONS[wanted],
    )
    fabric.launch()
    return fabric


def _any(fabric: Any, mine: bool) -> bool:
    """Whether it is so in any process."""
    if fabric.world_size == 1:
        return mine
    return bool(fabric.all_reduce(torch.tensor(float(mine), device=fabric.device), reduce_op="sum") > 0)


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Signals that came in: Ctrl-C or a termination stops the run after the step; a second one at once."""
    came: list[int] = []

    def note(number: int, _: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever started it has to stop it
        before = {}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
