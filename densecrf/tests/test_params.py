import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecrf.params import NORMALIZATIONS, Params, read_params

WEIGHT, WIDTH = st.floats(0, 1e6), st.floats(1e-6, 1e6)


@given(WEIGHT, WIDTH, WIDTH, WEIGHT, WIDTH, st.sampled_from(NORMALIZATIONS))
def test_written_parameters_are_read(tmp_path_factory, w1, xy, rgb, w2, smooth, normalization):
    params = Params(
        appearance_weight=w1,
        appearance_xy_std=xy,
        appearance_rgb_std=rgb,
        smoothness_weight=w2,
        smoothness_xy_std=smooth,
        normalization=normalization,
    )
    path = tmp_path_factory.mktemp("params") / "params.json"
    path.write_text(json.dumps(asdict(params)))
    assert read_params(path) == params


def test_a_width_for_each_channel_is_a_list_in_the_file(tmp_path):
    path = tmp_path / "params.json"
    params = Params(appearance_rgb_std=(3, 4.5, 9))
    path.write_text(json.dumps(asdict(params)))
    assert '"appearance_rgb_std": [3, 4.5, 9]' in path.read_text()
    assert read_params(path) == params


def test_missing_fields_have_their_defaults(tmp_path):
    path = tmp_path / "params.json"
    path.write_text('{"appearance_weight": 4, "normalization": "after"}')
    assert read_params(str(path)) == Params(appearance_weight=4, normalization="after")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"w1": 3}', "unknown key 'w1'; known: appearance_weight, appearance_xy_std"),
        ('{"appearance_xy_std": 0}', "got appearance_xy_std = 0, wanted a finite number above 0"),
        ('{"appearance_weight": NaN}', "got appearance_weight = nan, wanted a finite number of at least 0"),
        ('{"appearance_weight": "5"}', "got appearance_weight = '5', wanted a number"),
        ('{"normalization": "both"}', "got normalization 'both', wanted one of"),
        ("[5, 50, 3]", "got a list, wanted an object with keys appearance_weight"),
        ("w1 = 5", "Expecting value"),
    ],
)
def test_unusable_files_are_refused(tmp_path, text, message):
    path = tmp_path / "params.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"params\.json: not a file of parameters: ") as caught:
        read_params(path)
    assert message in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_params(tmp_path / "none.json")
