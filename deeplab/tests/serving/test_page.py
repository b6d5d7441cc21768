"""The page: its tabs, the files that it offers, and how it is mounted."""

import asyncio
import base64
import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

gr = pytest.importorskip("gradio", reason="needs pip install 'deeplab-crf[app]'")
httpx = pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.model.segmentation import Segmentation  # noqa: E402
from deeplab.serving import photo_tab as photo_tab_module  # noqa: E402
from deeplab.serving.comparison import PAIRS, data_uri, show_both, show_refined  # noqa: E402
from deeplab.serving.crf_sliders import SLIDERS, params_from_sliders  # noqa: E402
from deeplab.serving.decode import shrink  # noqa: E402
from deeplab.serving.limits import Limits  # noqa: E402
from deeplab.serving.page import LOCAL, REMOTE  # noqa: E402
from deeplab.serving.page_html import code, legend, result_legend  # noqa: E402
from deeplab.serving.photo_tab import PhotoTab  # noqa: E402
from deeplab.serving.result_cache import CRF, NETWORK, Batch, PageResult, ResultCache  # noqa: E402
from densecrf import Params  # noqa: E402
from densecrf.params import read_params  # noqa: E402
from served_page import ServedPage, as_upload  # noqa: E402  (after the skip)

NAMES = ("background", "cat", "<dog>")
DEFAULTS = (5.0, 50.0, 3.0, 3.0, 3.0, 10, "after")
PAIR = f"{NETWORK} | {CRF}"


@pytest.fixture
def tab(services):
    return PhotoTab(services)


def page_result(small, photo):
    plain = small.segment(photo, crf=False)
    return PageResult(plain, small.refine(plain), small.crf_params)


def test_a_photo_is_labelled_and_its_result_stored(tab, results, small, photo, photo_file):
    name, compare, _, summary, links, pixel, text = asyncio.run(
        tab.label(as_upload(photo_file), None, PAIR, 69, 44, *DEFAULTS)
    )
    refined, plain = small.segment(photo), small.segment(photo, crf=False)
    assert compare["left"] == data_uri(plain.overlay())
    assert compare["right"] == data_uri(refined.overlay())
    assert (compare["result"], compare["ratio"]) == (name, 70 / 45)
    assert (compare["left_title"], compare["right_title"]) == (NETWORK, CRF)
    assert np.array_equal(results.get(name).refined.labels, refined.labels)
    assert "70×45 · network" in summary
    assert f"../results/{name}/ids.png" in links
    assert small.class_names[refined.labels[44, 69]].replace("<", "&lt;").replace(">", "&gt;") in pixel
    assert "normalization='after'" in text
    again, *_ = asyncio.run(tab.label(as_upload(photo_file), name, PAIR, 0, 0, *DEFAULTS))
    assert again == name  # a second photo replaces the first


def test_sliders_run_the_crf_alone(tab, results, small, photo, photo_file, monkeypatch):
    name, *_ = asyncio.run(tab.label(as_upload(photo_file), None, PAIR, 0, 0, *DEFAULTS))
    plain = results.get(name).plain
    monkeypatch.setattr(small.predictor, "probabilities", None)  # the network does not run again
    params = Params(appearance_weight=0.0, smoothness_weight=9.0, normalization="symmetric")
    compare, *_, text = asyncio.run(tab.refine(name, PAIR, 0, 0, 0, 50, 3, 9, 3, 4, "symmetric"))
    expected = small.refine(plain, params=params, iterations=4)
    assert results.get(name).params == params
    assert np.array_equal(results.get(name).refined.probabilities, expected.probabilities)
    assert compare["right"] == data_uri(expected.overlay())
    assert "left" not in compare  # it did not change
    assert text == code(params, 4)


def test_without_a_photo_the_sliders_change_the_code(tab):
    *skipped, text = asyncio.run(tab.refine(None, PAIR, 0, 0, 6, 50, 3, 3, 3, 10, "after"))
    assert "appearance_weight=6.0" in text
    assert len(skipped) == 5


def test_the_default_values_belong_to_the_weights(tab):
    assert tab.defaults() == DEFAULTS


def test_errors_are_shown_on_the_page(tab, tmp_path, photo_file, queue):
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo_file.read_bytes()[:60])
    with pytest.raises(gr.Error, match="damaged"):
        asyncio.run(tab.label(as_upload(broken), None, PAIR, 0, 0, *DEFAULTS))
    with (
        queue.slot(),
        queue.slot(),
        queue.slot(),
        queue.slot(),
        queue.slot(),
        pytest.raises(gr.Error, match="5 photos"),
    ):
        asyncio.run(tab.label(as_upload(photo_file), None, PAIR, 0, 0, *DEFAULTS))
    with pytest.raises(gr.Error, match="σα · appearance, pixels: got 0, wanted 1 to 200"):
        params_from_sliders((5, 0, 3, 3, 3, 10, "after"), Params())
    assert queue.waiting == 0


@pytest.mark.parametrize(
    "values",
    [
        (5, 50, 3, 3, 3, 31, "after"),
        (5, 50, 3, 3, 3, 10**9, "after"),
        (5, 50, 3, 3, 3, -1, "after"),
        (31, 50, 3, 3, 3, 10, "after"),
        (5, 1e9, 3, 3, 3, 10, "after"),
        (5, 50, 3, 3, 1e308, 10, "after"),
    ],
)
def test_values_outside_of_the_sliders_are_refused(values):
    with pytest.raises(gr.Error, match=r"got .* wanted"):
        params_from_sliders(values, Params())
    defaults = Params(appearance_xy_std=300.0)  # its slider is extended to this value
    params, steps = params_from_sliders((5, 300, 3, 3, 3, 30, "after"), defaults)
    assert (params.appearance_xy_std, steps) == (300, 30)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            (5, None, 3, 3, 3, 10, "after"),
            "σα · appearance, pixels: the box is empty; type a number from 1 to 200",
        ),
        ((5, 50, 3, 3, 3, None, "after"), "iterations: the box is empty; type a number from 0 to 30"),
    ],
)
def test_an_emptied_box_is_one_clear_sentence(values, words):
    with pytest.raises(gr.Error, match=f"^'{words}'$"):
        params_from_sliders(values, Params())


def test_class_and_confidence_at_a_pixel():
    plain = np.zeros((3, 2, 4), np.float32)
    plain[0], plain[1, 1, 3] = 0.75, 0.9
    refined = np.zeros((3, 2, 4), np.float32)
    refined[2] = 0.5
    photo = np.zeros((2, 4, 3), np.uint8)
    result = PageResult(Segmentation(photo, plain, NAMES), Segmentation(photo, refined, NAMES), Params())
    assert result.at(3, 1) == "x 3, y 1 · network + CRF: <dog> 50 % · network: cat 90 %"
    assert result.at(99, -5) == "x 3, y 0 · network + CRF: <dog> 50 % · network: background 75 %"
    shares = result_legend(result)
    assert "&lt;dog&gt;</td><td>0.0 %</td><td>100.0 %" in shares
    assert "background</td><td>87.5 %</td><td>0.0 %" in shares
    assert "<dog>" not in shares


def test_a_click_chooses_a_pixel(tab, photo_file):
    name, *_ = asyncio.run(tab.label(as_upload(photo_file), None, PAIR, 0, 0, *DEFAULTS))
    x, y, text = tab.click(name, SimpleNamespace(index=[60, 11]))
    assert (x, y) == (60, 11)
    assert "x 60, y 11" in text


def test_the_legend_is_ordered_by_its_last_column_and_without_tiny_shares():
    table = legend(
        {"a": {"cat": 0.7, "background": 0.3}, "b": {"background": 0.6, "<dog>": 0.0004, "cat": 0.3996}},
        NAMES,
    )
    assert re.findall(r"</i>([^<]*)</td>", table) == ["background", "cat"]
    assert "rgb(128 0 0)" in table  # VOC's colour of id 1


def test_pairs_to_compare(small, photo):
    result = page_result(small, photo)
    pictures = {"photo": photo, NETWORK: result.plain.overlay(), CRF: result.refined.overlay()}
    for pair, (left, right) in PAIRS.items():
        update = show_both(result, "abc", pair)
        assert update["result"] == "abc"
        assert update["left"] == data_uri(pictures[left])
        assert update["right"] == data_uri(pictures[right])
        second = show_refined(result, pair)
        assert second.get("right") == (data_uri(pictures[CRF]) if right == CRF else None)


def test_a_data_uri_holds_the_picture(photo):
    head, text = data_uri(photo).split(",")
    assert head == "data:image/jpeg;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)
    assert picture.shape == photo.shape
    assert np.abs(picture - photo).mean() < 12


def test_the_code_gives_the_params():
    import densecrf

    params = Params(appearance_weight=7.5, smoothness_xy_std=2, normalization="before")
    first, second = code(params, 7).splitlines()
    variables = {}
    exec(first, {"densecrf": densecrf}, variables)
    assert variables["params"] == params
    assert second == "result = model.segment(photo, crf=params, iterations=7)"
    assert code(Params(), 10) == "params = densecrf.Params()\nresult = model.segment(photo, crf=params)"


def test_files_of_a_photo(small, photo, tmp_path):
    result = replace(page_result(small, photo), params=Params(appearance_weight=2.5))
    files = {name: make() for name, make in result.files.items()}
    assert set(files) == {"ids.png", "overlay.png", "probabilities.npz", "params.json"}
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(files["ids.png"]))), result.refined.labels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(files["overlay.png"]))), result.refined.overlay())
    with np.load(io.BytesIO(files["probabilities.npz"]), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["probabilities"], result.refined.probabilities)
        assert tuple(arrays["class_names"]) == NAMES
    (tmp_path / "params.json").write_bytes(files["params.json"])
    assert read_params(tmp_path / "params.json") == result.params


def test_the_cache_has_the_latest_results():
    results = ResultCache(2)
    a, b = results.put(Batch(b"a")), results.put(Batch(b"b"))
    assert results.put(Batch(b"A"), a) == a
    c = results.put(Batch(b"c"))
    assert len({a, b, c}) == 3
    assert min(map(len, (a, b, c))) >= 20  # cannot be guessed
    assert [results.get(name) for name in (a, b, c, None, "x")] == [
        Batch(b"A"),
        None,
        Batch(b"c"),
        None,
        None,
    ]


def test_large_photos_are_shrunk_and_small_ones_are_not(photo):
    assert shrink(photo, 45 * 70) is photo
    small = shrink(photo, 1000)
    assert small.shape == (25, 39, 3)
    assert abs(float(small.mean()) - float(photo.mean())) < 3


def test_the_summary_of_a_shrunk_photo(tab, photo_file, monkeypatch):
    monkeypatch.setattr(photo_tab_module, "PAGE_PIXELS", 1300)
    _, _, _, summary, *_ = asyncio.run(tab.label(as_upload(photo_file), None, PAIR, 0, 0, *DEFAULTS))
    assert "shrunk from 70×45 to 44×28" in summary


@pytest.fixture
def mounted(small, monkeypatch, tmp_path):
    """A function that sends requests to the application with the page."""
    return ServedPage(small, Limits(bytes=100_000), tmp_path, monkeypatch).ask


def test_the_page_is_served_beside_the_http_api(mounted):
    root, health, wrong, schema = mounted(
        ("GET", "/"), ("GET", "/healthz"), ("GET", "/v1/segment"), ("GET", "/openapi.json")
    )
    assert root.status_code == 200
    assert root.url.path == "/page/"
    assert health.json()["status"] == "ok"
    assert wrong.status_code == 405
    assert set(schema.json()["paths"]) == {"/v1/segment", "/healthz"}


@pytest.mark.parametrize("local", [True, False])
def test_the_page_claims_to_be_local_only_where_it_is(small, monkeypatch, tmp_path, local):
    served = ServedPage(small, Limits(), tmp_path, monkeypatch, local=local)
    (page,) = served.ask(("GET", "/page/"))
    assert (LOCAL in page.text, REMOTE in page.text) == (local, not local)


def test_an_emptied_box_reaches_the_page_as_that_sentence(small, photo_file, monkeypatch, tmp_path):
    served = ServedPage(small, Limits(bytes=100_000), tmp_path / "uploads", monkeypatch)
    values = [None, PAIR, None, None, *DEFAULTS]
    values[values.index(50.0)] = None

    async def talk():
        async with served.client() as client:
            return await served.event(client, served.number_of("refine"), values)

    message = asyncio.run(talk())
    assert not message["success"]
    assert message["output"]["error"].startswith("σα · appearance, pixels: the box is empty")


def test_the_page_loads_nothing_from_elsewhere(mounted):
    (page,) = mounted(("GET", "/page/"))
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?([^\"'> ]+)", page.text)
    assert loaded
    foreign = [
        address for address in loaded if re.match(r"(https?:)?//", address) and "//127.0.0.1" not in address
    ]
    assert foreign == []
    assert '"analytics_enabled":false' in page.text.replace(" ", "")
    (theme,) = mounted(("GET", "/page/theme.css"))
    assert theme.status_code == 200
    assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", theme.text) == []


def test_files_of_this_machine_cannot_be_downloaded(mounted):
    routes = (
        "/page/gradio_api/file={}",
        "/page/file={}",
        "/results/x/{}",
        "/page/gradio_api/file=/proc/self/root{}",
    )
    answers = mounted(*(("GET", route.format("/etc/passwd")) for route in routes))
    assert all(answer.status_code in (403, 404) for answer in answers)
    assert not any("root:" in answer.text for answer in answers)


def test_uploads_to_the_page_are_limited(mounted):
    small, large = mounted(
        *(
            ("POST", "/page/gradio_api/upload", {"files": {"files": ("a.png", bytes(size))}})
            for size in (90_000, 200_000)
        )
    )
    assert small.status_code == 200
    assert large.status_code == 413


def test_a_result_that_is_not_stored(mounted):
    (answer,) = mounted(("GET", "/results/nothing/ids.png"))
    assert answer.status_code == 404
    assert json.loads(answer.text)["error"] == "gone"


def test_each_parameter_has_a_slider():
    fields = {field for field in Params.__dataclass_fields__ if field != "normalization"}
    assert set(SLIDERS) == fields
    for field, allowed in SLIDERS.items():
        assert allowed.minimum <= getattr(Params(), field) <= allowed.maximum
