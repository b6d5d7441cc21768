"""The training loop, on a CPU, a GPU or many of them; a stopped run resumes at its last checkpoint."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from deeplab.training.batch_norm import add_batch_norm
from deeplab.training.checkpoint import Progress, load_checkpoint, read_progress, save_checkpoint
from deeplab.training.fabric import any_process, make_fabric
from deeplab.training.losses import class_weights_of
from deeplab.training.optimizer import RunningMean, freeze, make_optimizer, rate_at, set_rates
from deeplab.training.recipe import Recipe, read_recipe
from deeplab.training.run_folder import RECIPE_FILE, RunFolder, memory_gigabytes
from deeplab.training.setup import TrainingSetup, prepare_training
from deeplab.training.stop_signals import Interrupted, stop_signals
from deeplab.training.train_step import Trainee, TrainStep
from deeplab.training.validation import BEST_WEIGHTS, Validator

LOG_EVERY = 10


def train(recipe: Recipe | str | Path, out: str | Path, *, resume: bool = False) -> Path:
    """Train a network, validate it now and then, and keep the best weights.

    A run that was stopped resumes at its last checkpoint in ``out``; on a CPU it ends with exactly the
    numbers of a run that was never stopped. A run that has ended is not trained further. Several processes,
    started by torchrun, share each batch.

    Args:
        recipe: the recipe, or its TOML file.
        out: folder for recipe, log, checkpoint and weights.
        resume: require that ``out`` holds a run to resume.

    Returns:
        The best weights, ``out/weights.safetensors``, with their card beside them. The weights of the last
        validation are in ``out/last.safetensors``.

    Raises:
        FileNotFoundError: if data or weights are missing, or there is nothing to resume.
        ValueError: if ``out`` holds a run of another recipe, or the data cannot be used.
        FloatingPointError: if the loss is no longer finite; nothing of that step is kept.
        ModuleNotFoundError: if Lightning Fabric is not installed.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, once the checkpoint of the last whole step is on disk.

    Source: DeepLab, sections 4.1 and 5.1; the release's train and solver prototxt files.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    out = Path(out)
    if resume and not (out / RECIPE_FILE).is_file():
        raise FileNotFoundError(f"{out} holds no run to resume; leave --resume out to begin one")
    fabric = make_fabric(recipe.device, recipe.precision)
    _validate_processes(recipe, fabric.world_size)
    run_folder = RunFolder(out, recipe) if fabric.is_global_zero else None
    try:
        progress = read_progress(out)
        if progress is not None and _has_ended(recipe, progress):
            if run_folder is not None:
                tqdm.write(_end_message(recipe, progress, out), file=sys.stderr)
        else:
            _TrainingLoop(recipe, out, fabric, run_folder).run()
    finally:
        if run_folder is not None:
            run_folder.close()
    return out / BEST_WEIGHTS


def _validate_processes(recipe: Recipe, processes: int) -> None:
    """ValueError if this many processes cannot share the batches."""
    if recipe.batch % (processes * recipe.accumulate):
        raise ValueError(
            f"got batch = {recipe.batch} for {processes} processes × accumulate = {recipe.accumulate}; "
            "wanted a multiple of their product"
        )
    if recipe.frozen_for and processes > 1:
        raise ValueError(
            "frozen_for needs a single process; train in two runs, the second with init = the first's weights"
        )


def _has_ended(recipe: Recipe, progress: Progress) -> bool:
    """Whether all steps are done, or the score has stopped improving."""
    return progress.step >= recipe.steps or _stopped_early(recipe, progress)


def _stopped_early(recipe: Recipe, progress: Progress) -> bool:
    return 0 < recipe.patience <= progress.worse


def _end_message(recipe: Recipe, progress: Progress, out: Path) -> str:
    reason = f"all {recipe.steps} steps are done"
    if _stopped_early(recipe, progress):
        reason = (
            f"early stopping ended it after step {progress.step} of {recipe.steps}, as {progress.worse} "
            f"validations were no better than that of step {progress.best_step}"
        )
    return (
        f"{out}: this run is finished: {reason}. To train further, begin a run in another folder with "
        f"init = {out / BEST_WEIGHTS}"
    )


class _TrainingLoop:
    """One process's part of a run.

    Args:
        recipe: the recipe of the run.
        out: folder of the run.
        fabric: Fabric of this process.
        run_folder: the folder, in the process that writes; None in all others.
    """

    def __init__(self, recipe: Recipe, out: Path, fabric: Any, run_folder: RunFolder | None):
        setup = prepare_training(recipe, out, fabric)
        network = setup.network
        if recipe.head_norm:
            add_batch_norm(network)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze(network, recipe.frozen)
        self._recipe = recipe
        self._out = out
        self._fabric = fabric
        self._run_folder = run_folder
        self._network = network
        self._optimizer = make_optimizer(network, recipe)
        trainee = Trainee(network, cached=recipe.cached_views > 0)
        self._trainee, fabric_optimizer = fabric.setup(trainee, self._optimizer)
        self._running_mean = RunningMean(network, recipe.ema) if recipe.ema else None
        self._progress = load_checkpoint(out, network, self._optimizer, self._running_mean) or Progress()
        if recipe.frozen_for and self._progress.step >= recipe.frozen_for:
            freeze(network, ())
        if run_folder is not None:
            run_folder.drop_log_after(self._progress.step)
        class_weights = _class_weights(recipe, setup, fabric.device)
        self._step = TrainStep(fabric, self._trainee, fabric_optimizer, recipe, class_weights)
        self._validator = Validator(recipe, setup, fabric, run_folder)
        self._batches = setup.batches.from_step(self._progress.step)

    def run(self) -> None:
        """Train until the run has ended.

        Raises:
            Interrupted: if a signal asked the run to stop before its end.
        """
        recipe = self._recipe
        progress = self._progress
        first_step = progress.step
        started = time.time()
        seconds_before = progress.seconds
        is_silent = True if self._run_folder is None else None
        bar = tqdm(total=recipe.steps, initial=first_step, desc="train", unit="step", disable=is_silent)
        with stop_signals() as signals, bar:
            while not _has_ended(recipe, progress):
                rate = rate_at(recipe, progress.step)
                loss = self._take_step(rate)
                elapsed = time.time() - started
                progress.seconds = seconds_before + elapsed
                bar.update()
                bar.set_postfix(
                    loss=f"{loss:.3f}",
                    lr=f"{rate:.1e}",
                    images=f"{recipe.batch * (progress.step - first_step) / elapsed:.1f}/s",
                    GB=f"{memory_gigabytes():.1f}",
                )
                self._log(loss, rate)
                if self._is_due(recipe.validate_every):
                    self._validator.validate(self._network, self._running_mean, progress)
                is_interrupted = any_process(self._fabric, bool(signals))
                self._save_checkpoint(is_interrupted)
                if is_interrupted and not _has_ended(recipe, progress):
                    raise Interrupted(
                        f"stopped after step {progress.step} of {recipe.steps}; "
                        "give the same command again to resume"
                    )
        self._fabric.barrier()

    def _take_step(self, rate: float) -> float:
        """Take one step at a base rate; returns the loss."""
        recipe = self._recipe
        fabric = self._fabric
        step = self._progress.step
        if recipe.frozen_for and step == recipe.frozen_for:
            freeze(self._network, ())
        set_rates(self._optimizer, rate)
        self._trainee.train()
        torch.manual_seed((recipe.seed << 32) + step * fabric.world_size + fabric.global_rank)
        # All crops are of one size, so that the search for the fastest kernels pays off.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            loss = self._step.take(next(self._batches), step)
        if self._running_mean is not None:
            self._running_mean.update(self._network, step)
        self._progress.step += 1
        return loss

    def _is_due(self, every: int) -> bool:
        """Whether the current step is the last one or a multiple of ``every``."""
        return self._progress.step % every == 0 or self._progress.step == self._recipe.steps

    def _log(self, loss: float, rate: float) -> None:
        if self._run_folder is not None and self._is_due(LOG_EVERY):
            self._run_folder.log(self._progress.step, loss=loss, rate=rate, seconds=self._progress.seconds)

    def _save_checkpoint(self, is_interrupted: bool) -> None:
        is_due = self._is_due(self._recipe.checkpoint_every) or _has_ended(self._recipe, self._progress)
        if self._run_folder is not None and (is_due or is_interrupted):
            save_checkpoint(self._out, self._network, self._optimizer, self._running_mean, self._progress)


def _class_weights(recipe: Recipe, setup: TrainingSetup, device: torch.device) -> torch.Tensor | None:
    """Factors (K,) on the classes, or None."""
    weights = class_weights_of(setup.class_counts, recipe.class_weights)
    return None if weights is None else torch.from_numpy(weights).to(device)
