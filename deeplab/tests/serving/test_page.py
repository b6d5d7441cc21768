import asyncio
import base64
import csv
import io
import json
import re
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

gr = pytest.importorskip("gradio", reason="needs pip install 'deeplab-crf[app]'")
httpx = pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.model.segmentation import Model, Segmentation  # noqa: E402
from deeplab.serving import page as page_module  # noqa: E402
from deeplab.serving.batch_tab import BatchTab  # noqa: E402
from deeplab.serving.comparison import PAIRS, both, refined, uri  # noqa: E402
from deeplab.serving.decode import shrunk  # noqa: E402
from deeplab.serving.decoder_process import Decoder  # noqa: E402
from deeplab.serving.limits import Limits  # noqa: E402
from deeplab.serving.page import KNOBS, Page, params_of  # noqa: E402
from deeplab.serving.page_html import code, legend, legend_of  # noqa: E402
from deeplab.serving.queue import WorkQueue  # noqa: E402
from deeplab.serving.result_cache import CRF, NETWORK, Archive, Batch, PageResult, ResultCache  # noqa: E402
from deeplab.serving.upload_store import UploadStore  # noqa: E402
from deeplab.weights.store import Card  # noqa: E402
from densecrf import Params  # noqa: E402
from densecrf.params import read_params  # noqa: E402
from served_page import ServedPage  # noqa: E402  (after the skip)

NAMES = ("background", "cat", "<dog>")
STANDARD = (5.0, 50.0, 3.0, 3.0, 3.0, 10, "after")
PAIR = f"{NETWORK} | {CRF}"


@pytest.fixture
def small(narrow):
    card = Card("deeplab-largefov", NAMES, crf={"normalization": "after"})
    return Model(narrow("deeplab-largefov"), card, precision="fp32")


@pytest.fixture
def shelf():
    return ResultCache()


@pytest.fixture
def line():
    with WorkQueue(1, 4) as opened:
        yield opened


@pytest.fixture(scope="module")
def decoder():
    with Decoder() as started:
        yield started


@pytest.fixture
def stored(tmp_path):
    return UploadStore(tmp_path, Limits())


@pytest.fixture
def page(small, line, decoder, stored, shelf):
    return Page(small, Limits(seconds=30), line, decoder, stored, shelf)


def told_of(path):
    """A file as the browser tells of it."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def kept_of(small, photo):
    plain = small.segment(photo, crf=False)
    return PageResult(plain, small.refine(plain), small.crf_params)


def test_a_photo_is_labelled_and_kept(page, shelf, small, photo, photo_file):
    name, compare, _, summary, links, pixel, text = asyncio.run(
        page.label(told_of(photo_file), None, PAIR, 69, 44, *STANDARD)
    )
    wanted, without = small.segment(photo), small.segment(photo, crf=False)
    assert compare["left"] == uri(without.overlay())
    assert compare["right"] == uri(wanted.overlay())
    assert (compare["kept"], compare["ratio"]) == (name, 70 / 45)
    assert (compare["left_title"], compare["right_title"]) == (NETWORK, CRF)
    assert np.array_equal(shelf.get(name).refined.labels, wanted.labels)
    assert "70×45 · network" in summary
    assert f"../kept/{name}/ids.png" in links
    assert small.class_names[wanted.labels[44, 69]].replace("<", "&lt;").replace(">", "&gt;") in pixel
    assert "normalization='after'" in text
    again, *_ = asyncio.run(page.label(told_of(photo_file), name, PAIR, 0, 0, *STANDARD))
    assert again == name  # a second photo takes the place of the first


def test_sliders_run_the_crf_alone(page, shelf, small, photo, photo_file, monkeypatch):
    name, *_ = asyncio.run(page.label(told_of(photo_file), None, PAIR, 0, 0, *STANDARD))
    plain = shelf.get(name).plain
    monkeypatch.setattr(small.predictor, "probabilities", None)  # the network is not asked again
    params = Params(appearance_weight=0.0, smoothness_weight=9.0, normalization="symmetric")
    compare, *_, text = asyncio.run(page.refine(name, PAIR, 0, 0, 0, 50, 3, 9, 3, 4, "symmetric"))
    wanted = small.refine(plain, params=params, iterations=4)
    assert shelf.get(name).params == params
    assert np.array_equal(shelf.get(name).refined.probabilities, wanted.probabilities)
    assert compare["right"] == uri(wanted.overlay())
    assert "left" not in compare  # it is as it was
    assert text == code(params, 4)


def test_without_a_photo_sliders_still_tell_the_params(page):
    *skipped, text = asyncio.run(page.refine(None, PAIR, 0, 0, 6, 50, 3, 3, 3, 10, "after"))
    assert "appearance_weight=6.0" in text
    assert len(skipped) == 5


def test_the_standard_values_are_those_of_the_weights(page):
    assert page.standard() == STANDARD


def test_what_goes_wrong_is_told_on_the_page(page, shelf, tmp_path, photo_file, line):
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo_file.read_bytes()[:60])
    with pytest.raises(gr.Error, match="damaged"):
        asyncio.run(page.label(told_of(broken), None, PAIR, 0, 0, *STANDARD))
    with (
        line.place(),
        line.place(),
        line.place(),
        line.place(),
        line.place(),
        pytest.raises(gr.Error, match="5 photos"),
    ):
        asyncio.run(page.label(told_of(photo_file), None, PAIR, 0, 0, *STANDARD))
    with pytest.raises(gr.Error, match="above 0"):
        params_of((5, 0, 3, 3, 3, 10, "after"), Params())
    assert line.waiting == 0


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
def test_what_is_on_no_slider_is_refused(values):
    with pytest.raises(gr.Error, match=r"got .* wanted"):
        params_of(values, Params())
    mine = Params(appearance_xy_std=300.0)  # of the weights: on its slider
    found, steps = params_of((5, 300, 3, 3, 3, 30, "after"), mine)
    assert (found.appearance_xy_std, steps) == (300, 30)


def test_class_and_confidence_at_a_pixel():
    plain = np.zeros((3, 2, 4), np.float32)
    plain[0], plain[1, 1, 3] = 0.75, 0.9
    refined = np.zeros((3, 2, 4), np.float32)
    refined[2] = 0.5
    photo = np.zeros((2, 4, 3), np.uint8)
    kept = PageResult(Segmentation(photo, plain, NAMES), Segmentation(photo, refined, NAMES), Params())
    assert kept.at(3, 1) == "x 3, y 1 · network + CRF: <dog> 50 % · network: cat 90 %"
    assert kept.at(99, -5) == "x 3, y 0 · network + CRF: <dog> 50 % · network: background 75 %"
    shares = legend_of(kept)
    assert "&lt;dog&gt;</td><td>0.0 %</td><td>100.0 %" in shares
    assert "background</td><td>87.5 %</td><td>0.0 %" in shares
    assert "<dog>" not in shares


def test_a_click_moves_the_point(page, photo_file):
    name, *_ = asyncio.run(page.label(told_of(photo_file), None, PAIR, 0, 0, *STANDARD))
    x, y, told = page.click(name, SimpleNamespace(index=[60, 11]))
    assert (x, y) == (60, 11)
    assert "x 60, y 11" in told


def test_the_legend_is_ordered_by_its_last_column_and_leaves_out_crumbs():
    table = legend(
        {"a": {"cat": 0.7, "background": 0.3}, "b": {"background": 0.6, "<dog>": 0.0004, "cat": 0.3996}},
        NAMES,
    )
    assert re.findall(r"</i>([^<]*)</td>", table) == ["background", "cat"]
    assert "rgb(128 0 0)" in table  # VOC's colour of id 1


def test_pairs_to_compare(small, photo):
    kept = kept_of(small, photo)
    shown = {"photo": photo, NETWORK: kept.plain.overlay(), CRF: kept.refined.overlay()}
    for pair, (left, right) in PAIRS.items():
        found = both(kept, "abc", pair)
        assert found["kept"] == "abc"
        assert found["left"] == uri(shown[left])
        assert found["right"] == uri(shown[right])
        again = refined(kept, pair)
        assert again.get("right") == (uri(shown[CRF]) if right == CRF else None)


def test_a_picture_as_text_is_that_picture(photo):
    head, text = uri(photo).split(",")
    assert head == "data:image/jpeg;base64"
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)
    assert found.shape == photo.shape
    assert np.abs(found - photo).mean() < 12


def test_the_copied_code_is_the_params():
    import densecrf

    params = Params(appearance_weight=7.5, smoothness_xy_std=2, normalization="before")
    first, second = code(params, 7).splitlines()
    found = {}
    exec(first, {"densecrf": densecrf}, found)
    assert found["params"] == params
    assert second == "result = model.segment(photo, crf=params, iterations=7)"
    assert code(Params(), 10) == "params = densecrf.Params()\nresult = model.segment(photo, crf=params)"


def test_files_of_a_photo(small, photo, tmp_path):
    kept = replace(kept_of(small, photo), params=Params(appearance_weight=2.5))
    files = {name: make() for name, make in kept.files.items()}
    assert set(files) == {"ids.png", "overlay.png", "probabilities.npz", "params.json"}
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(files["ids.png"]))), kept.refined.labels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(files["overlay.png"]))), kept.refined.overlay())
    with np.load(io.BytesIO(files["probabilities.npz"]), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["probabilities"], kept.refined.probabilities)
        assert tuple(arrays["class_names"]) == NAMES
    (tmp_path / "params.json").write_bytes(files["params.json"])
    assert read_params(tmp_path / "params.json") == kept.params


def test_the_shelf_keeps_the_last_ones():
    shelf = ResultCache(2)
    a, b = shelf.put(Batch(b"a")), shelf.put(Batch(b"b"))
    assert shelf.put(Batch(b"A"), a) == a
    c = shelf.put(Batch(b"c"))
    assert len({a, b, c}) == 3
    assert min(map(len, (a, b, c))) >= 20  # not to be guessed
    assert [shelf.get(name) for name in (a, b, c, None, "x")] == [Batch(b"A"), None, Batch(b"c"), None, None]


@pytest.fixture
def several(small, line, decoder, stored, shelf):
    return BatchTab(small, Limits(seconds=30), line, decoder, stored, shelf)


def test_photos_of_a_folder(several, tmp_path):
    files = [tmp_path / name for name in ("2/b.JPG", "1/c.png", "1/notes.txt", "1/a.webp")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    found = several.photos_of([told_of(file) for file in files])
    assert found == [str(tmp_path / name) for name in ("1/a.webp", "2/b.JPG", "1/c.png")]
    assert several.photos_of(None) == []


def test_several_photos(several, shelf, small, photo, tmp_path):
    for folder, name in (("a", "one.png"), ("b", "one.png"), ("a", "one_overlay.png"), ("a", "bad.png")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(photo[: 45 if folder == "a" else 30]).save(tmp_path / folder / name)
    (tmp_path / "a/bad.png").write_text("no photo")
    paths = [
        told_of(tmp_path / name) for name in ("a/one.png", "a/bad.png", "b/one.png", "a/one_overlay.png")
    ]
    shown, table, told, link = asyncio.run(several.label(paths, True))
    assert "3 of 4 photos labelled; bad.png: not a picture" in told
    assert [name for _, name in shown] == ["one", "one-2", "one_overlay-2"]
    assert "background" in table
    stored = shelf.get(re.search(r"kept/([\w-]+)/labels.zip", link).group(1)).files["labels.zip"]()
    with zipfile.ZipFile(io.BytesIO(stored)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == [
            "classes.csv",
            "one-2.png",
            "one-2_overlay.png",
            "one.png",
            "one_overlay-2.png",
            "one_overlay-2_overlay.png",
            "one_overlay.png",
        ]
        ids = np.asarray(Image.open(io.BytesIO(archive.read("one-2.png"))))
        assert np.array_equal(ids, small.segment(photo[:30]).labels)
        rows = list(csv.DictReader(io.StringIO(archive.read("classes.csv").decode())))
    for name in ("one", "one-2"):
        assert sum(float(row["share"]) for row in rows if row["photo"] == name) == pytest.approx(1, abs=1e-5)


def test_large_ones_of_several_photos_are_shrunk(small, line, decoder, stored, shelf, photo, photo_file):
    several = BatchTab(small, Limits(seconds=30, pixels=1300), line, decoder, stored, shelf)
    _, _, told, link = asyncio.run(several.label([told_of(photo_file)], True))
    assert "1 of 1 photos labelled; 1 shrunk to 0.0013 megapixels, as are their labels" in told
    files = shelf.get(re.search(r"kept/([\w-]+)/labels.zip", link).group(1)).files["labels.zip"]()
    with zipfile.ZipFile(io.BytesIO(files)) as archive:
        ids = np.asarray(Image.open(io.BytesIO(archive.read("photo.png"))))
    assert np.array_equal(ids, small.segment(shrunk(photo, 1300)).labels)


def test_too_few_and_too_many_photos(several, tmp_path):
    (tmp_path / "a.png").touch()
    for paths in ([], None, [told_of(tmp_path / "a.png")] * 51):
        with pytest.raises(gr.Error, match=f"got {len(paths or [])} photos, wanted 1 to 50"):
            asyncio.run(several.label(paths, True))
    (tmp_path / "bad.png").write_text("no photo")
    shown, table, told, link = asyncio.run(several.label([told_of(tmp_path / "bad.png")], False))
    assert (shown, table, link) == ([], "", "")
    assert "0 of 1 photos" in told


def test_names_in_an_archive_are_kept_apart(photo):
    result = Segmentation(photo, np.ones((3, 45, 70), np.float32), NAMES)
    with Archive() as archive:
        assert [archive.add(name, result) for name in ("a", "a", "a", "a-2")] == ["a", "a-2", "a-3", "a-2-2"]


def test_large_photos_are_shrunk_and_small_ones_are_not(photo):
    assert shrunk(photo, 45 * 70) is photo
    small = shrunk(photo, 1000)
    assert small.shape == (25, 39, 3)
    assert abs(float(small.mean()) - float(photo.mean())) < 3


def test_a_shrunk_photo_says_so(page, photo_file, monkeypatch):
    monkeypatch.setattr(page_module, "PAGE_PIXELS", 1300)
    _, _, _, summary, *_ = asyncio.run(page.label(told_of(photo_file), None, PAIR, 0, 0, *STANDARD))
    assert "shrunk from 70×45 to 44×28" in summary


@pytest.fixture
def mounted(small, monkeypatch, tmp_path):
    """Asks the door with the page."""
    return ServedPage(small, Limits(bytes=100_000), tmp_path, monkeypatch).ask


def test_the_page_is_served_beside_the_door(mounted):
    root, health, wrong, schema = mounted(
        ("GET", "/"), ("GET", "/healthz"), ("GET", "/v1/segment"), ("GET", "/openapi.json")
    )
    assert root.status_code == 200
    assert root.url.path == "/page/"
    assert health.json()["status"] == "ok"
    assert wrong.status_code == 405
    assert set(schema.json()["paths"]) == {"/v1/segment", "/healthz"}


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


def test_files_of_this_machine_are_not_given_out(mounted):
    ways = (
        "/page/gradio_api/file={}",
        "/page/file={}",
        "/kept/x/{}",
        "/page/gradio_api/file=/proc/self/root{}",
    )
    answers = mounted(*(("GET", way.format("/etc/passwd")) for way in ways))
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


def test_what_is_not_kept_is_gone(mounted):
    (answer,) = mounted(("GET", "/kept/nothing/ids.png"))
    assert answer.status_code == 404
    assert json.loads(answer.text)["error"] == "gone"


def test_each_parameter_has_a_slider():
    fields = {field for field in Params.__dataclass_fields__ if field != "normalization"}
    assert set(KNOBS) == fields
    for field, (_, least, most, _) in KNOBS.items():
        assert least <= getattr(Params(), field) <= most
