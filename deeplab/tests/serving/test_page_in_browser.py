"""The page in a real browser: headless Chromium, driven by Selenium.

DEEPLAB_SCREENSHOTS=docs/images makes the screenshots of the documentation.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs pip install 'deeplab-crf[app]'")
pytest.importorskip("selenium", reason="needs pip install 'deeplab-crf[test]'")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("needs Chromium: apt-get install chromium chromium-driver", allow_module_level=True)

from selenium import webdriver  # noqa: E402  (after the skips)
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

import deeplab  # noqa: E402
import densecrf  # noqa: E402

CAT = Path(__file__).parents[3] / "examples/photos/cat.jpg"
SCREENSHOTS = os.environ.get("DEEPLAB_SCREENSHOTS")
SERVER = "import sys; from deeplab.commands.app import App, app; sys.exit(app(App(port=0, max_seconds=300)))"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",  # a camera
)


@pytest.fixture(scope="module")
def server():
    """A server with the shipped weights: the process, and the first line that it prints."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address(server):
    process, line = server
    assert line.startswith("page: http://127.0.0.1:"), process.stderr.read()
    return line.split()[1]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(address, downloads, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
        )
        yield driver
    finally:
        driver.quit()


def wait(browser, condition, seconds=240):
    """Wait until a condition returns something true, and return it; the page may redraw meanwhile."""
    from selenium.common.exceptions import StaleElementReferenceException, WebDriverException

    ignored = [StaleElementReferenceException, WebDriverException]
    return WebDriverWait(browser, seconds, 0.1, ignored_exceptions=ignored).until(lambda _: condition())


def one(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def text(browser, selector):
    return one(browser, selector).text


def sources(browser, selector):
    """Addresses of the pictures in a part of the page; empty for one that is not loaded."""
    script = (
        "return [...document.querySelectorAll(arguments[0])]"
        ".map(image => image.complete && image.naturalWidth ? image.src : '')"
    )
    return browser.execute_script(script, selector)


def size(browser, width, height, *, mobile=False):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def screenshot(browser, name, *, scale=1.0):
    """Take a picture of the whole page, if DEEPLAB_SCREENSHOTS names a folder for it."""
    if not SCREENSHOTS:
        return
    time.sleep(1)  # for what fades in
    width, height = browser.execute_script("return [innerWidth, document.documentElement.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": scale}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    with Image.open(io.BytesIO(b64decode(shot["data"]))) as image:
        small = image.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE)
        small.save(Path(SCREENSHOTS) / name, optimize=True)


@pytest.fixture
def labelled(browser, address):
    """The page at 1280×900 with the cat labelled; reused if an earlier test has left it so."""
    size(browser, 1280, 900)
    if not browser.current_url.startswith(address) or "451×300" not in text(browser, "#summary"):
        upload(browser, address, CAT)
        wait(
            browser, lambda: "network" in text(browser, "#summary") and "451×300" in text(browser, "#summary")
        )
    wait(browser, lambda: all(sources(browser, "#compare img")))
    return browser


def upload(browser, address, photo):
    """Open the page and upload a photo."""
    browser.get(address)
    wait(browser, lambda: one(browser, "#photo input[type=file]")).send_keys(str(photo))


def downloaded(browser, downloads, selector, name):
    """Click a link, and return the bytes of the file that it saves."""
    path = downloads / name
    path.unlink(missing_ok=True)
    one(browser, selector).click()
    wait(browser, path.exists)
    return path.read_bytes()


def press(browser, selector, *keys):
    """Focus an element and press keys."""
    browser.execute_script("arguments[0].focus()", one(browser, selector))
    ActionChains(browser).send_keys(*keys).perform()


def foreign_requests(browser):
    """Addresses on other machines that the browser has requested."""
    urls = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            urls.append(message["params"]["request"]["url"])
    local = ("http://127.0.0.1:", "data:", "blob:", "chrome:", "about:")
    assert any(url.startswith(local[0]) for url in urls)
    return [url for url in urls if not url.startswith(local)]


def divider(browser):
    """Position of the dividing line as it is drawn, in percent of the width."""
    script = (
        "const box = e => document.querySelector(e).getBoundingClientRect(), stage = box('#compare .stage');"
        "return 100 * (box('#compare .divider').left + 2 - stage.left) / stage.width"
    )
    shown = browser.execute_script(
        "return getComputedStyle(document.querySelector('#compare .right')).clipPath"
    )
    percent = browser.execute_script(script)
    assert abs(float(shown.removesuffix("%)").split()[-1]) - percent) < 1  # the right picture begins there
    return percent


def test_upload_compare_slide_and_download(labelled, downloads):
    browser, model = labelled, deeplab.load()
    plain = model.segment(CAT, crf=False)
    first = sources(browser, "#compare img")
    assert first[0] != first[1]
    assert "cat" in text(browser, "#legend")
    share = 100 * model.refine(plain).shares()["cat"]
    assert f"{share:.1f} %" in text(browser, "#legend")
    assert divider(browser) == pytest.approx(50, abs=1)
    stage = one(browser, "#compare .stage")
    ActionChains(browser).drag_and_drop_by_offset(stage, stage.size["width"] // 4, 0).perform()
    assert wait(browser, lambda: divider(browser) == pytest.approx(75, abs=2))
    press(browser, "#compare input", *[Keys.ARROW_LEFT] * 10)
    assert wait(browser, lambda: divider(browser) == pytest.approx(65, abs=2))

    press(browser, "#slider-smoothness_weight input[type=range]", *[Keys.ARROW_RIGHT] * 6)
    wait(browser, lambda: "smoothness_weight=6.0" in text(browser, "#code"))
    wait(
        browser,
        lambda: all(sources(browser, "#compare img")) and sources(browser, "#compare img")[1] != first[1],
    )
    assert sources(browser, "#compare img")[0] == first[0]
    assert divider(browser) == pytest.approx(65, abs=2)

    ids = downloaded(browser, downloads, "#files a[download='ids.png']", "ids.png")
    params = json.loads(downloaded(browser, downloads, "#files a[download='params.json']", "params.json"))
    assert params["smoothness_weight"] == 6
    expected = model.refine(plain, params=densecrf.Params(**params))
    assert (np.asarray(Image.open(io.BytesIO(ids))) == expected.labels).mean() > 0.999
    overlay = downloaded(browser, downloads, "#files a[download='overlay.png']", "overlay.png")
    assert Image.open(io.BytesIO(overlay)).size == (451, 300)
    arrays = downloaded(browser, downloads, "#files a[download='probabilities.npz']", "probabilities.npz")
    with np.load(io.BytesIO(arrays)) as found:
        assert found["probabilities"].shape == (21, 300, 451)

    one(browser, "#reset").click()
    wait(browser, lambda: "smoothness_weight" not in text(browser, "#code"))
    assert foreign_requests(browser) == []
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def test_an_emptied_number_box(labelled):
    browser, box = labelled, "#slider-smoothness_weight input[type=number]"
    browser.execute_script("arguments[0].select()", one(browser, box))
    press(browser, box, Keys.BACKSPACE)
    words = "w2 · smoothness, weight: the box is empty; type a number from 0 to 30"
    assert wait(browser, lambda: words in text(browser, ".toast-body"))
    one(browser, ".toast-close").click()
    press(browser, box, "4")
    wait(browser, lambda: "smoothness_weight=4" in text(browser, "#code"))
    one(browser, "#reset").click()
    wait(browser, lambda: "smoothness_weight" not in text(browser, "#code"))


def test_class_and_confidence_by_pointing_by_click_and_by_keyboard(labelled):
    browser, stage = labelled, one(labelled, "#compare .stage")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", stage)
    ActionChains(browser).move_to_element(stage).perform()
    shown = wait(browser, lambda: "x 22" in text(browser, "#pixel") and text(browser, "#pixel"))
    assert "cat" in shown
    assert abs(int(shown.split()[3].rstrip(",")) - 150) < 3
    before = divider(browser)
    ActionChains(browser).move_to_element_with_offset(stage, -40, -30).click().perform()
    wait(browser, lambda: one(browser, "#x input").get_attribute("value") not in ("0", ""))
    x = int(one(browser, "#x input").get_attribute("value"))
    assert x == pytest.approx(225 - 40 * 451 / stage.size["width"], abs=2)
    assert divider(browser) == before  # a click is no drag
    browser.execute_script("arguments[0].select()", one(browser, "#x input"))
    press(browser, "#x input", "7")
    assert "%" in wait(browser, lambda: "x 7," in text(browser, "#pixel") and text(browser, "#pixel"))


def test_other_pictures_to_compare_by_keyboard(labelled):
    browser = labelled
    before = sources(browser, "#compare img")
    press(browser, "#pair label:nth-of-type(2) input", Keys.SPACE)
    wait(
        browser,
        lambda: all(sources(browser, "#compare img")) and sources(browser, "#compare img")[0] != before[0],
    )
    assert [tag.text for tag in browser.find_elements(By.CSS_SELECTOR, "#compare .tag")] == [
        "photo",
        "network + CRF",
    ]


def test_everything_can_be_reached_by_tab(labelled):
    browser, reached = labelled, set()
    browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    for _ in range(70):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached |= set(
            browser.execute_script(
                "let e = document.activeElement, ids = [];"
                "while (e) { if (e.id) ids.push(e.id); e = e.parentElement }"
                "return ids"
            )
        )
    expected = {"photo", "files", "pair", "compare", "x", "y", "code", "reset"}
    expected |= {"slider-normalization", "slider-appearance_weight"}
    assert expected <= reached


def test_the_page_on_a_phone(labelled):
    browser = labelled
    size(browser, 400, 850, mobile=True)
    browser.execute_script("scrollTo(0, 0)")
    assert wait(browser, lambda: browser.execute_script("return document.documentElement.scrollWidth") == 400)
    outside = browser.execute_script(
        "return [...document.querySelectorAll('button, input, img, a, table')].filter(e => {"
        " const box = e.getBoundingClientRect(); return box.width && (box.right > 401 || box.left < -1) })"
        ".map(e => e.outerHTML.slice(0, 99))"
    )
    assert outside == []
    screenshot(browser, "app-phone.png")
    browser.execute_script("document.querySelector('#slider-iterations').scrollIntoView({block: 'end'})")
    top = "return document.querySelector('#compare').getBoundingClientRect().top"
    assert wait(browser, lambda: browser.execute_script(top) == 0)  # the picture stays in sight


def test_an_example_photo(browser, address):
    size(browser, 1280, 900)
    browser.get(address)
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".gallery-item"))[1].click()
    wait(browser, lambda: "512×512" in text(browser, "#summary"))
    assert "person" in text(browser, "#legend")
    wait(browser, lambda: all(sources(browser, "#compare img")))
    assert wait(browser, lambda: all(sources(browser, "#photo img")))
    screenshot(browser, "app-desktop.png", scale=0.75)


def test_a_picture_from_the_camera(browser, address):
    size(browser, 1280, 900)
    browser.get(address)
    wait(browser, lambda: one(browser, "#photo button[aria-label='Capture from camera']")).click()
    buttons = "#photo button"
    wait(
        browser,
        lambda: next(
            each for each in browser.find_elements(By.CSS_SELECTOR, buttons) if "Access" in each.text
        ),
    ).click()
    wait(browser, lambda: browser.execute_script("return document.querySelector('#photo video')?.videoWidth"))
    wait(browser, lambda: one(browser, "#photo button[aria-label='capture photo']")).click()
    wait(browser, lambda: "network" in text(browser, "#summary"))
    assert "background" in text(browser, "#legend")


def test_a_file_that_is_no_photo(browser, address, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(CAT.read_bytes()[:3000])
    size(browser, 1280, 900)
    upload(browser, address, broken)
    assert "damaged" in wait(browser, lambda: text(browser, ".toast-body"))


def test_the_photos_of_a_folder(browser, address, downloads, tmp_path):
    for file in (CAT, CAT.with_name("cameraman.jpg")):
        shutil.copy(file, tmp_path)
    (tmp_path / "notes.txt").write_text("no photo")
    size(browser, 1280, 900)
    browser.get(address)
    tabs = wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "button[role=tab]"))
    next(tab for tab in tabs if tab.text == "Several photos").click()
    wait(browser, lambda: one(browser, "input[webkitdirectory]")).send_keys(str(tmp_path))
    wait(browser, lambda: "cameraman" in text(browser, "#photos"))
    one(browser, "#start").click()
    wait(browser, lambda: "2 of 2 photos labelled" in text(browser, "#batch-status"))
    wait(browser, lambda: len([source for source in sources(browser, "#gallery img") if source]) >= 2)
    screenshot(browser, "app-several.png", scale=0.75)
    with zipfile.ZipFile(
        io.BytesIO(downloaded(browser, downloads, "#batch-files a", "labels.zip"))
    ) as archive:
        assert sorted(archive.namelist()) == [
            "cameraman.png",
            "cameraman_overlay.png",
            "cat.png",
            "cat_overlay.png",
            "classes.csv",
        ]
    assert foreign_requests(browser) == []


def test_a_stop_does_not_wait_for_open_pages(browser, address, server):
    process, _ = server
    browser.get(address)
    wait(browser, lambda: one(browser, "#photo input[type=file]"))
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0  # a request may take 300 seconds
    assert process.stdout.read().endswith("stopped\n")
    assert "Traceback" not in process.stderr.read()
