"""Validation during a training run, and the weights that it saves."""

from __future__ import annotations

import copy
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from deeplab.drawing import overlay
from deeplab.evaluation.scoring import Scores, evaluate
from deeplab.model.predictor import Predictor
from deeplab.network.architecture import DeepLab
from deeplab.training.batch_norm import fold_batch_norm
from deeplab.training.checkpoint import Progress
from deeplab.training.optimizer import RunningMean
from deeplab.training.recipe import Recipe
from deeplab.training.run_folder import RunFolder
from deeplab.training.setup import TrainingSetup
from deeplab.weights.store import Card, save_weights

BEST_WEIGHTS = "weights.safetensors"
LAST_WEIGHTS = "last.safetensors"
SHOWN_PHOTOS = 4
"""Photos whose labels TensorBoard shows after each validation."""


class Validator:
    """Scores the network on the val photos and saves its weights.

    Args:
        recipe: the recipe of the run.
        setup: val photos, class names and what the card says.
        fabric: Fabric of this process.
        run_folder: folder of the run, in the process that writes; None in all others, which only wait.
    """

    def __init__(self, recipe: Recipe, setup: TrainingSetup, fabric: Any, run_folder: RunFolder | None):
        self._recipe = recipe
        self._setup = setup
        self._fabric = fabric
        self._run_folder = run_folder

    def validate(self, network: DeepLab, running_mean: RunningMean | None, progress: Progress) -> None:
        """Score the network or its running mean, save it, and record the score in the progress.

        Args:
            network: the network that learns.
            running_mean: running mean of its weights, if there is one.
            progress: steps done and scores so far.
        """
        score = torch.zeros(())
        if self._run_folder is not None:
            final = self._finished_network(network, running_mean)
            scores = self._evaluate(final, progress.step, self._run_folder)
            score = torch.tensor(self._score(scores))
            tqdm.write(
                f"step {progress.step}: {self._recipe.score} {100 * float(score):.2f} %", file=sys.stderr
            )
            card = self._card(progress, scores)
            names = [LAST_WEIGHTS, BEST_WEIGHTS] if float(score) > progress.best else [LAST_WEIGHTS]
            for name in names:
                save_weights(self._run_folder.folder / name, final.cpu(), card)
        progress.record_score(float(self._fabric.broadcast(score)))

    def _finished_network(self, network: DeepLab, running_mean: RunningMean | None) -> DeepLab:
        """A copy of the network as it would be used after the run."""
        final = copy.deepcopy(network)
        if running_mean is not None:
            final.load_state_dict(running_mean.tensors)
        if self._recipe.head_norm:
            fold_batch_norm(final)
        return final.float().eval()

    def _evaluate(self, network: DeepLab, step: int, run_folder: RunFolder) -> Scores:
        """Score the network and write the scores to the log."""
        predictor = Predictor(network, self._setup.preparation, device=str(self._fabric.device))
        samples = self._setup.val[: self._recipe.validate_photos or None]
        images: list[np.ndarray] = []

        def predict(photo: np.ndarray) -> np.ndarray:
            labels = predictor.probabilities([photo])[0].argmax(0).astype(np.uint8)
            if len(images) < SHOWN_PHOTOS:
                images.append(overlay(photo, labels))
            return labels

        bar = tqdm(samples, desc="validate", unit="photo", leave=False, disable=None)
        scores = evaluate(predict, bar, class_names=self._setup.class_names)
        finite = {name: value for name, value in scores.summary().items() if np.isfinite(value)}
        run_folder.log(step, **finite)
        for number, image in enumerate(images):
            run_folder.add_image(step, f"val/{number}", image)
        return scores

    def _score(self, scores: Scores) -> float:
        """The number that decides which weights are best; 0 where it is not defined."""
        score = scores.mean_iou_of() if self._recipe.score == "mIoU-7" else scores.mean_iou
        return score if np.isfinite(score) else 0.0

    def _card(self, progress: Progress, scores: Scores) -> Card:
        recipe = self._recipe
        setup = self._setup
        without_paths = {key: Path(getattr(recipe, key)).name for key in ("data", "extra_data", "init")}
        teachers = [Path(file).name for file in recipe.teacher]
        provenance = setup.provenance | {
            "recipe": asdict(recipe) | without_paths | {"teacher": teachers},
            "step": progress.step,
            "time": (
                f"{progress.seconds / 60:.0f} minutes on "
                f"{self._fabric.world_size} × {self._fabric.device.type}"
            ),
            "scores": {"network": scores.summary()},
        }
        return Card(
            recipe.variant, setup.class_names, setup.preparation, setup.crf, provenance, size=setup.size
        )
