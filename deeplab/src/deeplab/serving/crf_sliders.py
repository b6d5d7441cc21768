"""The page's sliders for the parameters of the CRF: their ranges, and the parameters that they give."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from densecrf import Params
from densecrf.params import NORMALIZATIONS


class SliderRange(NamedTuple):
    """Title, ends and step of a slider."""

    title: str
    minimum: float
    maximum: float
    step: float


SLIDERS = {  # one for each number of Params
    "appearance_weight": SliderRange("w1 · appearance, weight", 0, 30, 0.5),
    "appearance_xy_std": SliderRange("σα · appearance, pixels", 1, 200, 1),
    "appearance_rgb_std": SliderRange("σβ · appearance, colour levels", 0.5, 60, 0.5),
    "smoothness_weight": SliderRange("w2 · smoothness, weight", 0, 30, 0.5),
    "smoothness_xy_std": SliderRange("σγ · smoothness, pixels", 0.5, 30, 0.5),
}
ITERATIONS = 10
ITERATION_RANGE = SliderRange("iterations", 0, 30, 1)


def crf_sliders(defaults: Params) -> list[Any]:
    """Make the sliders, two in a row, and the choice of the normalisation.

    Args:
        defaults: parameters that belong to the weights.

    Returns:
        The components, in the order of ``slider_values``.
    """
    sliders = [(field, slider_range(field, defaults), float(getattr(defaults, field))) for field in SLIDERS]
    sliders.append(("iterations", ITERATION_RANGE, float(ITERATIONS)))
    components = list[Any]()
    for first in range(0, len(sliders), 2):
        with gr.Row():
            for field, (title, minimum, maximum, step), value in sliders[first : first + 2]:
                slider = gr.Slider(
                    minimum,
                    maximum,
                    value,
                    step=step,
                    label=title,
                    min_width=220,
                    elem_id=f"slider-{field}",
                )
                components.append(slider)
    normalization = gr.Radio(
        list(NORMALIZATIONS),
        value=defaults.normalization,
        label="normalisation",
        elem_id="slider-normalization",
    )
    return [*components, normalization]


def slider_values(params: Params) -> tuple[Any, ...]:
    """Return the values that the sliders show for these parameters and the default iterations."""
    return *(getattr(params, field) for field in SLIDERS), ITERATIONS, params.normalization


def slider_range(field: str, defaults: Params) -> SliderRange:
    """Return the range of a slider, extended to the default value.

    Args:
        field: name of a field of ``Params``.
        defaults: parameters that belong to the weights.

    Returns:
        The range.
    """
    value = float(getattr(defaults, field))
    title, minimum, maximum, step = SLIDERS[field]
    return SliderRange(title, min(minimum, value), max(maximum, value), step)


def params_from_sliders(values: tuple[Any, ...], defaults: Params) -> tuple[Params, int]:
    """Return parameters and iterations from the values of the sliders.

    Args:
        values: numbers of the fields of ``SLIDERS``, iterations and normalisation, as the browser sends them;
            an emptied number box gives None.
        defaults: parameters that belong to the weights.

    Returns:
        The parameters and the number of iterations.

    Raises:
        gr.Error: for an empty box, a value outside the range of its slider, or anything else that the page
            does not send.
    """
    *numbers, normalization = values
    ranges = [*(slider_range(field, defaults) for field in SLIDERS), ITERATION_RANGE]
    try:
        checked = [_in_range(value, each) for value, each in zip(numbers, ranges, strict=True)]
        params = Params(**dict(zip(SLIDERS, checked, strict=False)), normalization=normalization)
    except (TypeError, ValueError, OverflowError) as error:
        raise gr.Error(str(error), print_exception=False) from None
    return params, int(checked[-1])


def _in_range(value: Any, allowed: SliderRange) -> float:
    title, minimum, maximum, _ = allowed
    if value is None:
        raise ValueError(f"{title}: the box is empty; type a number from {minimum:g} to {maximum:g}")
    number = float(value)
    if not minimum <= number <= maximum:
        raise ValueError(f"{title}: got {number:g}, wanted {minimum:g} to {maximum:g}")
    return number
