"""Real clicks through every tab, in chromium."""

import shutil

import cv2
import numpy as np
import pytest

import pixelbert_jax
from pixelbert_jax.predictor import Predictor

pytest.importorskip("gradio", reason="the page needs the extra demo")
playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")

from experiments.demo_page import page as page_module  # noqa: E402
from experiments.demo_page.page import make_page, serve  # noqa: E402
from tests.pixelbert_jax.test_predictor_tasks import judging  # noqa: E402

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.usefixtures("compiled_once"),
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on this machine"),
]
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
PATIENCE = 60_000  # milliseconds: the first call of each kind compiles


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Opens the page of a predictor; at the end nothing was asked of any other host."""
    opened, elsewhere = [], []

    def visit(predictor, index=None):
        page = make_page(predictor, tmp_path, index)
        url = serve(page)
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        own = (url.rstrip("/"), "data:", "blob:")
        tab.on("request", lambda request: None if request.url.startswith(own) else elsewhere.append(request.url))
        tab.set_default_timeout(PATIENCE)
        tab.goto(url)
        opened.append((page, tab))
        return tab

    yield visit
    for page, tab in opened:
        tab.close()
        page.close(verbose=False)
    assert elsewhere == []


def pixels_of_image(tab, label: str) -> np.ndarray:
    """An image of the page, RGB."""
    block = tab.locator(".block", has_text=label).last
    image = block.locator("img").first
    image.wait_for()
    body = tab.request.get(image.get_attribute("src")).body()
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_match_and_attention(visit, pretrained, tmp_path):
    predictor = Predictor(pretrained)
    tab = visit(predictor)
    tab.get_by_role("button", name="Match").wait_for()
    tab.locator("table tr:visible").nth(1).click()  # the first example
    tab.locator(".image-frame img:visible").first.wait_for()
    tab.get_by_role("button", name="Match").click()
    tab.get_by_text("%").first.wait_for()
    texts = tab.get_by_label("Texts, one a line").input_value().splitlines()
    words = tab.locator(".textfield")
    words.wait_for()
    best = " ".join(words.inner_text().split())
    assert best in texts
    word = best.split()[-1]
    words.get_by_text(word).last.click()
    drawn = pixels_of_image(tab, "Attention of the word")
    expected = predictor.attention_map(str(tmp_path / "scene_0.png"), best, word).overlay()
    assert drawn.shape == expected.shape
    assert np.abs(drawn.astype(int) - expected).mean() < 6  # WebP on the way


def test_fill(visit, pretrained):
    tab = visit(Predictor(pretrained))
    tab.get_by_role("tab", name="Fill [MASK]").click()
    tab.get_by_role("button", name="Fill", exact=True).wait_for()
    tab.locator("tr:visible", has_text="[MASK]").nth(1).click()  # below the header
    tab.locator(".image-frame img:visible").first.wait_for()
    tab.get_by_role("button", name="Fill", exact=True).click()
    tab.locator("p:visible", has_text=" s").last.wait_for()


def test_answer_and_search(visit, vqa_run, pretrained, tmp_path, own_data):
    tab = visit(Predictor(pixelbert_jax.load(vqa_run)))
    tab.get_by_role("button", name="Ask", exact=True).click()
    tab.get_by_text("Give an image first").wait_for()
    image = tmp_path / "own.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8))
    tab.locator("input[type=file]").first.set_input_files(str(image))
    tab.get_by_label("Question").fill("what color is it ?")
    tab.get_by_role("button", name="Ask", exact=True).click()
    tab.get_by_text("%").first.wait_for()
    folder = tmp_path / "many"
    folder.mkdir()
    shutil.copy(image, folder / "own.png")
    predictor = Predictor(pretrained)
    tab = visit(predictor, predictor.index(folder))
    tab.get_by_role("tab", name="Search").click()
    tab.get_by_label("Text to find among 1 images").fill("a red circle")
    tab.get_by_role("button", name="Search", exact=True).click()
    tab.get_by_text("own.png").first.wait_for()


def test_judge(visit, pretrained, tmp_path):
    predictor, sentence = Predictor(judging(pretrained, 2)), "there is a circle in both"
    tab, files = visit(predictor), []
    for number, side in enumerate(("left", "right")):
        files.append(str(tmp_path / f"{side}.png"))
        cv2.imwrite(files[-1], np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8))
        tab.locator("[role=tabpanel]:visible input[type=file]").nth(number).set_input_files(files[-1])
        tab.locator(".image-frame img:visible").nth(number).wait_for()
    tab.get_by_label("Sentence").fill(sentence)
    tab.get_by_role("button", name="Judge", exact=True).click()
    probability = predictor.judge(*files, sentence)
    for share in (probability, 1 - probability):
        tab.get_by_text(f"{100 * share:.0f}%").first.wait_for()


def test_a_full_queue_is_told(visit, pretrained, monkeypatch):
    monkeypatch.setattr(page_module, "_WAITING", 0)
    tab = visit(Predictor(pretrained))
    tab.locator("table tr:visible").nth(1).click()  # the first example
    tab.locator(".image-frame img:visible").first.wait_for()
    tab.get_by_role("button", name="Match").click()
    tab.get_by_text("This application is currently busy. Please try again.").first.wait_for()
