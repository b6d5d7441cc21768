"""Recipes: TOML files that define training runs, and the dataclass that they are read into."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from deeplab.network.architecture import VARIANTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "policy": ("step", "poly", "constant"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "class_weights": ("none", "inverse", "median"),
    "device": ("auto", "cpu", "cuda"),
    "score": ("mIoU", "mIoU-7"),
    "variant": tuple(VARIANTS),
}
AT_LEAST_ONE = (
    "crop",
    "batch",
    "accumulate",
    "steps",
    "validate_every",
    "checkpoint_every",
    "workers",
    "memory_side",
)
FRACTIONS = ("dropout", "ema", "jitter", "extra_share", "teacher_share", "mix")


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run.

    Learning rates apply to the mean loss over the valid positions of the whole batch, as in the release.
    """

    data: str
    """Folder of the data set, in any layout that ``deeplab check-data`` accepts."""
    variant: str = "deeplab-largefov"
    """Name of the network."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to validate on."""
    binary: bool = False
    """Whether masks are black and white: 0 is background, and the other level, be it 1 or 255, the object."""
    line_width: float = 0.0
    """Width in pixels of annotated lines, and diameter of points; 0 refuses them, as they have no area."""
    extra_data: str = ""
    """Folder of a second data set with the same classes, from which a share of each batch is taken."""
    extra_split: str = "all"
    """Split of the second data set."""
    extra_share: float = 0.0
    """Share of each batch that comes from the second data set."""
    init: str = ""
    """Initial weights: "shipped" (the included weights), "imagenet" (VGG-16 from the hub), a weights file of
    this package, Caffe, torchvision, timm or Keras, or "" for random weights. Classes with the same name keep
    their classifiers."""

    crop: int = 321
    """Side of a training crop in pixels."""
    batch: int = 30
    """Number of crops per step, over all processes."""
    accumulate: int = 1
    """Number of parts into which a process divides its share of a batch; needs less memory, with the same
    result."""
    steps: int = 6000
    """Number of training steps."""
    mirror: bool = True
    """Whether each crop is mirrored with probability 0.5."""
    scale_low: float = 1.0
    """Smallest factor by which photos are resized before they are cropped."""
    scale_high: float = 1.0
    """Largest factor; factors are drawn log-uniformly between the two."""
    jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation."""

    mix: float = 0.0
    """Probability that half of the classes of another crop are pasted into a crop; needs in_memory."""
    in_memory: bool = False
    """Whether all photos are decoded once into the memory of the GPU and cropped there."""
    memory_side: int = 512
    """Largest height and width of photos with in_memory; larger photos are downscaled to it."""

    optimizer: str = "sgd"
    """"sgd" (with momentum) or "adamw"."""
    rate: float = 1e-3
    """Base learning rate."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of all weights except biases."""
    policy: str = "step"
    """Learning rate schedule: "step", "poly" or "constant"."""
    step_size: int = 2000
    """Number of steps after which the policy "step" multiplies the rate by ``gamma``."""
    gamma: float = 0.1
    """Factor of the policy "step"."""
    power: float = 0.9
    """Exponent of the policy "poly": the rate is multiplied by (1 − step / steps) to this power."""
    warmup: int = 0
    """Number of steps over which the rate rises from zero."""
    last_layer_rate: float = 10.0
    """Factor on the rate of fc8."""
    head_rate: float = 1.0
    """Factor on the rate of fc6 and fc7; above 1 if they start from random weights."""
    bias_rate: float = 2.0
    """Factor on the rate of biases, which have no weight decay."""
    frozen: tuple[str, ...] = ()
    """Name prefixes of layers that are not trained, for example "conv1"."""
    frozen_for: int = 0
    """Number of steps after which frozen layers are trained as well; 0 for never."""
    clip: float = 0.0
    """Maximum norm of the gradients; 0 for no limit."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights, which is evaluated and saved; 0 for no
    average."""

    class_weights: str = "none"
    """Weights of the classes in the loss: "none", "inverse" or "median", see
    ``deeplab.training.losses.class_weights_of``."""
    dice: float = 0.0
    """Weight of the Dice loss, which is added to the cross-entropy."""
    focal: float = 0.0
    """Exponent of the focal loss; 0 for plain cross-entropy."""
    teacher: tuple[str, ...] = ()
    """Soft targets: files with another network's scores of every training photo, in the format of
    ``deeplab.datasets.score_file.ScoreFile``."""
    teacher_share: float = 0.0
    """Share of the loss for the soft targets; the rest is for the labels."""
    dropout: float = 0.5
    """Dropout probability after fc6 and fc7."""
    head_norm: bool = False
    """Whether fc6 and fc7 are trained with batch normalisation, which helps if they start from random
    weights. It is folded into their weights when these are saved."""
    cached_views: int = 0
    """Number of scaled and mirrored copies of each photo whose pool4 features are computed once and used for
    training; 0 to train on photos. conv1 to conv4 must be frozen."""

    device: str = "auto"
    """"auto" (GPUs if there are any), "cpu" or "cuda"."""
    precision: str = "auto"
    """"auto" (16 bits where the device has them in hardware), "fp32", "bf16" or "fp16"."""
    validate_every: int = 500
    """Number of steps between validations."""
    score: str = "mIoU"
    """Score that selects the best weights: "mIoU", or "mIoU-7" of the seven VOC classes with enough training
    photos."""
    validate_photos: int = 0
    """Number of photos to validate on; 0 for all."""
    patience: int = 0
    """Number of validations without a better score after which the run ends; 0 for never."""
    checkpoint_every: int = 100
    """Number of steps between checkpoints."""
    workers: int = 2
    """Number of threads that read photos."""
    seed: int = 0
    """Random seed."""
    tensorboard: bool = False
    """Whether TensorBoard events are written."""

    def __post_init__(self) -> None:
        _check_values(self)
        _check_combinations(self)


def _check_values(recipe: Recipe) -> None:
    """ValueError for a value outside its range."""
    for key, choices in CHOICES.items():
        if getattr(recipe, key) not in choices:
            raise ValueError(f"got {key} = {getattr(recipe, key)!r}, wanted one of: {', '.join(choices)}")
    for key in AT_LEAST_ONE:
        if getattr(recipe, key) < 1:
            raise ValueError(f"got {key} = {getattr(recipe, key)}, wanted at least 1")
    for key in FRACTIONS:
        if not 0 <= getattr(recipe, key) < 1:
            raise ValueError(f"got {key} = {getattr(recipe, key)}, wanted 0 or more and less than 1")
    if not 0 < recipe.scale_low <= recipe.scale_high:
        raise ValueError(
            f"got scales {recipe.scale_low} to {recipe.scale_high}, wanted 0 < scale_low ≤ scale_high"
        )
    legal = VARIANTS[recipe.variant].legal_crop(recipe.crop)
    if legal != recipe.crop:
        raise ValueError(
            f"got crop = {recipe.crop}, which does not align with scores of {recipe.variant}; wanted {legal}"
        )


def _check_combinations(recipe: Recipe) -> None:
    """ValueError for invalid combinations of keys."""
    if bool(recipe.teacher) != (recipe.teacher_share > 0):
        raise ValueError("teacher and teacher_share go together: got one without the other")
    if recipe.mix and not recipe.in_memory:
        raise ValueError("got mix without in_memory; wanted in_memory = true as well")
    if recipe.in_memory and recipe.cached_views:
        raise ValueError("got in_memory and cached_views, wanted one of the two")
    if recipe.teacher and recipe.cached_views:
        raise ValueError("got teacher and cached_views, wanted one of the two: soft targets need photos")
    if bool(recipe.extra_data) != (recipe.extra_share > 0):
        raise ValueError("extra_data and extra_share go together: got one without the other")


def read_recipe(path: str | Path, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe from a TOML file.

    Args:
        path: the file; its keys are the fields of ``Recipe``.
        changes: "key=value" strings that override the file; a list is given as "a,b".

    Returns:
        The recipe.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for an unknown key (the nearest known key is named), a value of the wrong type or outside
            its range, or a missing key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recipe {path}; wanted a .toml file, as in recipes/")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    types = get_type_hints(Recipe)
    known = {field.name: field for field in fields(Recipe)}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"got {change!r}, wanted key=value")
        values[key] = _parsed(text, types.get(key, str))
    for key, value in values.items():
        if key not in known:
            nearest = difflib.get_close_matches(key, known, 1, 0)[0]
            raise ValueError(
                f"{path}: unknown key {key!r}; did you mean {nearest!r}? Known: {', '.join(known)}"
            )
        values[key] = _converted(path, key, value, types[key])
    missing = [name for name, field in known.items() if _is_required(field) and name not in values]
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}; give it as --set {missing[0]}=VALUE")
    try:
        return Recipe(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING


def _parsed(text: str, kind: Any) -> Any:
    """A value from the command line, with the type that TOML would give it."""
    if kind is str:
        return text
    if get_origin(kind) is tuple:
        return [part for part in text.split(",") if part]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _converted(path: Path, key: str, value: Any, kind: Any) -> Any:
    """The value as the type of its field; ValueError if it has another type."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if isinstance(value, list) and all(isinstance(item, inner) for item in value):
            return tuple(value)
        raise ValueError(f"{path}: got {key} = {value!r}, wanted a list of {inner.__name__}")
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{path}: got {key} = {value!r}, wanted {kind.__name__}")
    return float(value) if kind is float else value
