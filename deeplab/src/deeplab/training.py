"""Train the network on a folder of photos and masks with the lower trunk frozen.

The head starts from random numbers (no ImageNet fc6/fc7 at hand), so it is trained with batch normalisation, which is
folded into the convolutions at the end: what is saved is the paper's network, nothing added.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from deeplab.classes import IGNORE, VOC_CLASSES
from deeplab.conversion import fill as fill_from_vgg
from deeplab.datasets import voc
from deeplab.evaluation import evaluate
from deeplab.feature_cache import FeatureCache, fill
from deeplab.network import POOL4, TRUNK, Convolution, DeepLab, build, upsample
from deeplab.transforms import Preparation, pad_to_stride, prepare
from deeplab.weights import Card, save_weights, write_whole

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

UPPER_TRUNK = tuple(layer.name for layer in TRUNK[POOL4 + 1 :] if isinstance(layer, Convolution))
NORMALISED = ("fc6", "fc7")


@dataclass(frozen=True)
class Recipe:
    """A whole training run; the only definition of its options."""

    data: str
    """A folder in the layout of PASCAL VOC."""
    imagenet: str
    """ImageNet VGG-16 convolutions, .npz."""
    train_split: str = "train_aug"
    val_split: str = "val"
    variant: str = "deeplab-largefov"
    views: int = 3
    """How often each photo enters the feature cache: as it is, then mirrored and plain by turns, scaled."""
    scale_low: float = 0.7
    scale_high: float = 1.4
    crop: int = 321
    batch: int = 16
    head_steps: int = 400
    """Steps with the whole trunk frozen."""
    steps: int = 1300
    """All steps; after ``head_steps`` conv5 learns too."""
    head_rate: float = 1e-3
    head_rate_late: float = 3e-4
    trunk_rate: float = 5e-5
    """Learning rates of AdamW; the last two decay with poly 0.9 to zero."""
    weight_decay: float = 0.01
    dropout: float = 0.5
    validate_every: int = 150
    seed: int = 0


def read_recipe(path: str | Path, changes: Iterable[str] = ()) -> Recipe:
    """A recipe from a TOML file.

    Args:
        path: the file; its keys are the fields of ``Recipe``.
        changes: "key=value" strings that go before the file's.

    Raises:
        ValueError: for a key that is unknown (the nearest known one is named), a value of the wrong type, or a
            missing key.
    """
    values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    known = {field.name: str(field.type) for field in fields(Recipe)}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"got {change!r}, wanted key=value")
        values[key] = text if known.get(key) == "str" else _number(text)
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0)[0]
            raise ValueError(f"{path}: unknown key {key!r}; did you mean {near!r}? Known: {', '.join(known)}")
        wanted: tuple[type, ...] = {"str": (str,), "int": (int,), "float": (int, float)}[known[key]]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"{path}: got {key} = {value!r}, wanted {known[key]}")
    lacking = [field.name for field in fields(Recipe) if field.default is MISSING and field.name not in values]
    if lacking:
        raise ValueError(f"{path}: lacks {', '.join(lacking)}; give it as --set {lacking[0]}=VALUE")
    recipe = Recipe(**values)
    if recipe.variant != "deeplab-largefov":
        raise ValueError(f"{path}: got variant {recipe.variant!r}; only deeplab-largefov can be trained as yet")
    return recipe


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def add_batch_norm(network: DeepLab) -> None:
    """Put batch normalisation behind fc6 and fc7, for training."""
    for name in NORMALISED:
        convolution = getattr(network, name)
        setattr(network, name, nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels)))


def fold_batch_norm(network: DeepLab) -> None:
    """Take the normalisation behind fc6 and fc7 away by scaling the convolutions: same function in evaluation mode."""
    for name in NORMALISED:
        convolution, norm = getattr(network, name)
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        with torch.no_grad():
            convolution.weight *= scale[:, None, None, None]
            convolution.bias.copy_((convolution.bias - norm.running_mean) * scale + norm.bias)
        setattr(network, name, convolution)


def train(recipe: Recipe, out: str | Path) -> Path:
    """Train and write the weights; a run that was stopped goes on from its last checkpoint in ``out``.

    Args:
        recipe: the experiment.
        out: folder for the cache, the log (log.jsonl), the checkpoint and the weights.

    Returns:
        The weights, ``out/weights.safetensors``, with their card beside them.

    Raises:
        FileNotFoundError: if data or ImageNet weights are missing.
        ValueError: if ``out`` holds a run of another recipe.
        FloatingPointError: if the loss is no longer finite.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _require_same_recipe(out, recipe)
    torch.manual_seed(recipe.seed)
    network = build(recipe.variant, classes=len(VOC_CLASSES), dropout=recipe.dropout)
    fill_from_vgg(network, recipe.imagenet)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not (out / "cache" / "views.json").is_file():
        fill(
            out / "cache", network, voc(recipe.data, recipe.train_split), preparation=Preparation(), views=recipe.views,
            scales=(recipe.scale_low, recipe.scale_high), crop=recipe.crop, seed=recipe.seed,
        )  # fmt: skip
    cache = FeatureCache(out / "cache")
    add_batch_norm(network)
    network.requires_grad_(False)
    trunk = [parameter for name in UPPER_TRUNK for parameter in getattr(network, name).parameters()]
    head = [parameter for name in ("fc6", "fc7", "fc8") for parameter in getattr(network, name).parameters()]
    for parameter in head:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW([{"params": head}, {"params": trunk}], lr=0.0, weight_decay=recipe.weight_decay)
    step, earlier = _resume(out, network, optimizer)
    batches = _batches(cache, recipe, skip=step)
    scores: dict[str, float] = {}
    started, bar = time.time() - earlier, tqdm(total=recipe.steps, initial=step, desc="train", unit="step")
    while step < recipe.steps:
        for parameter in trunk:
            parameter.requires_grad_(step >= recipe.head_steps)
        rates = _rates(recipe, step)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        features, targets = next(batches)
        network.train()
        torch.manual_seed(recipe.seed * 2**32 + step)  # so that a resumed run drops out what the whole one would have
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network.scores_from_pool4(features)
        loss = F.cross_entropy(outputs.float(), targets.long(), ignore_index=IGNORE)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}; lower the learning rates and resume")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        bar.update()
        bar.set_postfix(loss=f"{loss.item():.3f}", lr=f"{rates[0]:.0e}")
        if step % 10 == 0:
            _log(out, {"step": step, "loss": round(loss.item(), 4), "seconds": round(time.time() - started, 1)})
        if step % recipe.validate_every == 0 or step == recipe.steps:
            _save_checkpoint(out, network, optimizer, step, time.time() - started)
            scores = _validate(network, recipe)
            _log(out, {"step": step, **scores})
    bar.close()
    network.eval()
    fold_batch_norm(network)
    story = {
        "data": f"{len(voc(recipe.data, recipe.train_split))} pairs of {recipe.train_split}",
        "recipe": asdict(recipe) | {"data": Path(recipe.data).name, "imagenet": Path(recipe.imagenet).name},
        "time": f"{(time.time() - started) / 60:.0f} minutes of training on {torch.get_num_threads()} threads",
        "scores": {"network": scores or _validate(network, recipe)},
    }
    save_weights(out / "weights.safetensors", network, Card(recipe.variant, VOC_CLASSES, story=story))
    return out / "weights.safetensors"


def _rates(recipe: Recipe, step: int) -> tuple[float, float]:
    """Learning rates of head and trunk: constant while the trunk is frozen, then poly to zero."""
    if step < recipe.head_steps:
        return recipe.head_rate, 0.0
    remaining = 1 - (step - recipe.head_steps) / (recipe.steps - recipe.head_steps)
    return recipe.head_rate_late * remaining**0.9, recipe.trunk_rate * remaining**0.9


def _require_same_recipe(out: Path, recipe: Recipe) -> None:
    """Keep the recipe beside its run, and refuse to go on with another one."""
    path = out / "recipe.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key, value in asdict(recipe).items() if before.get(key) != value]
        if changed:
            raise ValueError(f"{out} holds a run with other {', '.join(changed)}; choose another folder or remove it")
    else:
        write_whole(path, (json.dumps(asdict(recipe), indent=2) + "\n").encode())


def _batches(cache: FeatureCache, recipe: Recipe, skip: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches; every view once an epoch, in an order that the seed and the step decide."""
    size = (recipe.crop - 1) // 8 + 1
    epoch_steps = len(cache) // recipe.batch
    if epoch_steps == 0:
        raise ValueError(f"got {len(cache)} views of photos, wanted at least one batch of {recipe.batch}")
    step = skip
    while True:
        order = np.random.default_rng((recipe.seed, 1, step // epoch_steps)).permutation(len(cache))
        for position in range(step % epoch_steps, epoch_steps):
            rng = np.random.default_rng((recipe.seed, 2, step))
            chosen = order[position * recipe.batch : (position + 1) * recipe.batch]
            crops = [cache.crop(int(index), size, rng) for index in chosen]
            features = torch.stack([f for f, _ in crops]).contiguous(memory_format=torch.channels_last)
            yield features, torch.stack([t for _, t in crops])
            step += 1


def _validate(network: DeepLab, recipe: Recipe) -> dict[str, float]:
    """Scores of the network alone on the validation photos, in percent."""
    network.eval()

    def predict(photo: np.ndarray) -> np.ndarray:
        batch = pad_to_stride(prepare(photo)).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            scores = upsample(network(batch).float())
        return scores[0, :, : photo.shape[0], : photo.shape[1]].argmax(0).numpy()

    return evaluate(predict, voc(recipe.data, recipe.val_split)).summary()


def _log(out: Path, record: dict[str, Any]) -> None:
    with open(out / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _save_checkpoint(out: Path, network: DeepLab, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    aside = out / "checkpoint.part"
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
    torch.save(state, aside)
    os.replace(aside, out / "checkpoint.pt")


def _resume(out: Path, network: DeepLab, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """The step and the seconds so far of the checkpoint, loaded; zeros if there is none."""
    path = out / "checkpoint.pt"
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])
