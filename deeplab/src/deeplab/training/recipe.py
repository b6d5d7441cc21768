"""A recipe is a whole experiment: one TOML file, one dataclass, nothing else decides what a training run
does."""

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


@dataclass(frozen=True)
class Recipe:
    """A training run. Rates are of the whole batch's mean loss over its valid positions, as in the
    release."""

    data: str
    """Folder with photos and labels, in any layout that ``deeplab check-data`` knows."""
    variant: str = "deeplab-largefov"
    train_split: str = "train"
    val_split: str = "val"
    extra_data: str = ""
    """A second folder of the same classes whose photos are mixed in."""
    extra_split: str = "all"
    extra_share: float = 0.0
    """Share of each batch that comes from the second folder."""
    init: str = ""
    """Where weights start: "shipped" (this package's), "imagenet" (from the hub), or a file of ours, Caffe,
    torchvision, timm or Keras; "" for random numbers. Classifiers are kept by the names of their classes."""

    crop: int = 321
    batch: int = 30
    """Crops a step, over all processes."""
    accumulate: int = 1
    """Parts in which a process works through its share of a step: less memory, same result."""
    steps: int = 6000
    mirror: bool = True
    scale_low: float = 1.0
    scale_high: float = 1.0
    """Photos are resized by a factor drawn log-uniformly between the two before they are cropped."""
    jitter: float = 0.0
    """Brightness, contrast and saturation change by factors within 1 ± this."""

    mix: float = 0.0
    """Probability that half of another crop's classes are pasted into a crop; needs in_memory."""
    in_memory: bool = False
    """Decode all photos once into the device's memory, and make crops and colours there: for a GPU."""
    memory_side: int = 512
    """With in_memory, larger photos are resized so that their longer side has this many pixels."""

    optimizer: str = "sgd"
    rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    policy: str = "step"
    step_size: int = 2000
    gamma: float = 0.1
    power: float = 0.9
    warmup: int = 0
    """Steps over which the rate rises from zero."""
    last_layer_rate: float = 10.0
    """Factor on the rate of fc8."""
    head_rate: float = 1.0
    """Factor on the rate of fc6 and fc7; more where they start from random numbers."""
    bias_rate: float = 2.0
    """Factor on the rate of biases, which have no weight decay."""
    frozen: tuple[str, ...] = ()
    """Beginnings of names of layers that do not learn, e.g. "conv1"."""
    frozen_for: int = 0
    """Steps after which frozen layers learn after all; 0 for never."""
    clip: float = 0.0
    """Largest norm of all gradients together; 0 for no limit."""
    ema: float = 0.0
    """Decay of the running mean of the weights, which is then what is scored and kept; 0 for none."""

    class_weights: str = "none"
    dice: float = 0.0
    """Weight of the Dice loss beside cross-entropy."""
    focal: float = 0.0
    """Exponent of the focal loss; 0 is plain cross-entropy."""
    teacher: tuple[str, ...] = ()
    """Files of another network's scores of every training photo (``deeplab.datasets.score_file.ScoreFile``)
    to learn from."""
    teacher_share: float = 0.0
    """Share of the loss that compares with the teacher's probabilities; the rest compares with the labels."""
    dropout: float = 0.5
    head_norm: bool = False
    """Batch normalisation behind fc6 and fc7 while training, folded into them at the end; for random fc6 and
    fc7."""
    cached_views: int = 0
    """Compute pool4 of so many views of each photo once, and train on that alone; needs conv1 to conv4
    frozen."""

    device: str = "auto"
    """"auto" (GPUs if there are), "cpu" or "cuda"."""
    precision: str = "auto"
    validate_every: int = 500
    score: str = "mIoU"
    """What decides which weights are best: "mIoU", or "mIoU-7" of VOC's seven well-populated classes."""
    validate_photos: int = 0
    """How many photos to score; 0 for all."""
    patience: int = 0
    """Validations without a better score after which the run stops; 0 for never."""
    checkpoint_every: int = 100
    workers: int = 2
    """Threads that read photos."""
    seed: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for key, known in CHOICES.items():
            if getattr(self, key) not in known:
                raise ValueError(f"got {key} = {getattr(self, key)!r}, wanted one of: {', '.join(known)}")
        counts = (
            "crop",
            "batch",
            "accumulate",
            "steps",
            "validate_every",
            "checkpoint_every",
            "workers",
            "memory_side",
        )
        for key in counts:
            if getattr(self, key) < 1:
                raise ValueError(f"got {key} = {getattr(self, key)}, wanted at least 1")
        if not 0 < self.scale_low <= self.scale_high:
            raise ValueError(
                f"got scales {self.scale_low} to {self.scale_high}, wanted 0 < scale_low ≤ scale_high"
            )
        for key in ("dropout", "ema", "jitter", "extra_share", "teacher_share", "mix"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"got {key} = {getattr(self, key)}, wanted 0 or more and less than 1")
        legal = VARIANTS[self.variant].legal_crop(self.crop)
        if legal != self.crop:
            raise ValueError(
                f"got crop = {self.crop}, which {self.variant} cannot align; the next that it can is {legal}"
            )
        if bool(self.teacher) != (self.teacher_share > 0):
            raise ValueError("teacher and teacher_share go together: got one without the other")
        if self.mix and not self.in_memory:
            raise ValueError("got mix without in_memory; wanted in_memory = true as well")
        if self.in_memory and self.cached_views:
            raise ValueError("got in_memory and cached_views, wanted one of the two")
        if bool(self.extra_data) != (self.extra_share > 0):
            raise ValueError("extra_data and extra_share go together: got one without the other")


def read_recipe(path: str | Path, changes: Iterable[str] = ()) -> Recipe:
    """A recipe from a TOML file.

    Args:
        path: the file; its keys are the fields of ``Recipe``.
        changes: "key=value" strings that go before the file's; a list is given as "a,b".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a key that is unknown (the nearest known one is named), a value of the wrong type or
            that makes no sense, or a missing key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recipe {path}; wanted a .toml file, as in recipes/")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    hints, known = get_type_hints(Recipe), {field.name: field for field in fields(Recipe)}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"got {change!r}, wanted key=value")
        values[key] = _parsed(text, hints.get(key, str))
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0)[0]
            raise ValueError(f"{path}: unknown key {key!r}; did you mean {near!r}? Known: {', '.join(known)}")
        values[key] = _checked(path, key, value, hints[key])
    lacking = [name for name, field in known.items() if _required(field) and name not in values]
    if lacking:
        raise ValueError(f"{path}: lacks {', '.join(lacking)}; give it as --set {lacking[0]}=VALUE")
    try:
        return Recipe(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING


def _parsed(text: str, kind: Any) -> Any:
    """A value from the command line as TOML would have given it."""
    if kind is str:
        return text
    if get_origin(kind) is tuple:
        return [part for part in text.split(",") if part]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _checked(path: Path, key: str, value: Any, kind: Any) -> Any:
    """The value in the type of its field, or one line that says what is wrong with it."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if isinstance(value, list) and all(isinstance(item, inner) for item in value):
            return tuple(value)
        raise ValueError(f"{path}: got {key} = {value!r}, wanted a list of {inner.__name__}")
    wanted = (int, float) if kind is float else (kind,)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{path}: got {key} = {value!r}, wanted {kind.__name__}")
    return float(value) if kind is float else value
