"""Screenshots of the web page's tabs, one model after the other; the page and chromium run on this machine.

    python -m benchmarks.pictures.page --workdirs=runs/quickstart,runs/easy_vqa,runs/nlvr_tiny --folder=docs/images

Images and texts are the first ones of a model's evaluation split. Each tab is visited twice, since the first call
compiles its program; both times that the page shows are printed. It needs the extra `browser` and chromium.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from data_pipelines.datasets import shapes_scene
from data_pipelines.images.resize import decode
from data_pipelines.storage.records import open_records
from experiments.demo_page.page import make_page, serve
from experiments.run.config_flags import run_main
from experiments.run.progress import say
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.predictor import Predictor

_WORKDIRS = flags.DEFINE_list("workdirs", ["runs/quickstart"], "Runs; of several with the same tab the first is shown.")
_FOLDER = flags.DEFINE_string("folder", "docs/images", "Where demo_<tab>.png are written.")

_CHROMIUM = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
_SEARCHED = 12  # images
_WORDS = 6  # least number of an example's text
_SHOWN = 320  # about so many pixels of an image's longer edge
_PATIENCE = 180_000  # milliseconds
_TIME = re.compile(r"^\d+\.\d\d s$")


class Example:
    """The images and texts of a model's evaluation split that its tabs are shown with."""

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        """Write the images to a folder. The example is the first record with a text of some length."""
        source = predictor.loaded.data.eval[0]
        records = open_records(predictor.loaded.data.data_dir, source.name, source.split)
        first = [records[number] for number in range(min(_SEARCHED, len(records)))]
        self.records = sorted(first, key=lambda record: len(record.texts[0].split()) < _WORDS)
        self.images = [folder / f"{number}.png" for number in range(len(self.records))]
        for file, record in zip(self.images, self.records, strict=True):
            write_enlarged(file, record.image, record.image_id)
        self.text, self.other_text = (record.texts[0] for record in self.records[:2])
        words = predictor.loaded.description["config"]["evaluation"]["words"]
        self.word = next((word for word in self.text.split() if word in words), max(self.text.split(), key=len))

    def sides(self) -> list[Path]:
        """The images of a sentence: one, or left and right."""
        left = self.images[0]
        if self.records[0].second is None:
            return [left]
        right = left.with_name("right.png")
        write_enlarged(right, self.records[0].second.image)
        return [left, right]


def write_enlarged(file: Path, encoded: bytes, image_id: str = "") -> None:
    """An image in whole multiples of its size, as the page does not enlarge it; a drawn scene is drawn again."""
    image = decode(encoded)
    times = max(1, round(_SHOWN / max(image.shape[:2])))
    image = image.repeat(times, 0).repeat(times, 1)
    if image_id.startswith("shapes/"):
        image = shapes_scene.render(shapes_scene.scene_from_image_id(image_id), _SHOWN)
    Image.fromarray(image).save(file)


def click(tab: Page, button: str) -> str:
    """Press a button and wait for its answer; gives the time that the page shows."""
    tab.get_by_role("button", name=button, exact=True).click()
    shown = tab.locator("p:visible").get_by_text(_TIME).first
    shown.wait_for()
    return shown.inner_text()


def give(tab: Page, images: list[Path], label: str, text: str) -> None:
    """Upload images and write a text."""
    for number, image in enumerate(images):
        tab.locator("[role=tabpanel]:visible input[type=file]").nth(number).set_input_files(str(image))
        tab.locator(".image-frame img:visible").nth(number).wait_for()
    tab.get_by_label(label).locator("visible=true").fill(text)


def match(tab: Page, example: Example) -> str:
    """Two texts, and where a word of the first looks."""
    give(tab, example.images[:1], "Texts, one a line", f"{example.text}\n{example.other_text}")
    seconds = click(tab, "Match")
    tab.locator(".textfield").get_by_text(example.word).first.click()
    tab.locator(".block", has_text="Attention of the word").last.locator("img").first.wait_for()
    return seconds


def pressed(button: str, label: str, text: Callable[[Example], str]) -> Callable[[Page, Example], str]:
    """A visit of a tab with one text and one button."""

    def visit(tab: Page, example: Example) -> str:
        images = {"Judge": example.sides(), "Search": []}.get(button, example.images[:1])
        give(tab, images, label, text(example))
        return click(tab, button)

    return visit


# File -> the method that its tab needs, the tab's name, and the visit.
TABS = {
    "match": ("match", "Match", match),
    "fill": (
        "fill_mask",
        "Fill [MASK]",
        pressed("Fill", "Text with [MASK]", lambda e: e.text.replace(e.word, "[MASK]", 1)),
    ),
    "ask": ("answer", "Ask", pressed("Ask", "Question", lambda example: example.text)),
    "judge": ("judge", "Judge", pressed("Judge", "Sentence", lambda example: example.text)),
    "search": ("match", "Search", pressed("Search", "Text to find", lambda example: example.text)),
}


def above_examples(tab: Page) -> dict[str, float]:
    """The part of the page above its list of examples."""
    height = tab.evaluate("document.body.scrollHeight")
    examples = tab.get_by_text("Examples", exact=True).locator("visible=true")
    if examples.count():
        height = examples.first.bounding_box()["y"] - 8
    return {"x": 0, "y": 0, "width": tab.viewport_size["width"], "height": height}


def visit_tabs(browser: Browser, predictor: Predictor, names: list[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Screenshots of a model's tabs among `names`; gives each name and its times."""
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as images:
        example = Example(predictor, Path(images))
        index = predictor.index(images) if "match" in predictor.methods else None
        page = make_page(predictor, Path(made), index)
        url = serve(page)
        for name in names:
            _, title, visit = TABS[name]
            times = []
            for _ in range(2):
                tab = browser.new_page(viewport={"width": 1100, "height": 500})
                tab.set_default_timeout(_PATIENCE)
                tab.goto(url)
                tab.get_by_role("tab", name=title, exact=True).click()
                times.append(visit(tab, example))
                tab.mouse.move(0, 0)
                tab.evaluate("window.scrollTo(0, 0)")
                tab.wait_for_timeout(500)  # milliseconds, until what the mouse has lit up is dark again
                tab.screenshot(path=folder / f"demo_{name}.png", full_page=True, clip=above_examples(tab))
                tab.close()
            yield name, ", then ".join(times)
        page.close(verbose=False)


def main() -> None:
    """Entry point behind the flags."""
    chromium, folder = shutil.which("chromium"), Path(_FOLDER.value)
    if not chromium:
        raise ConfigError("The screenshots need chromium; install it, for example with: apt-get install chromium.")
    if not folder.is_dir():
        raise ConfigError(f"--folder={folder}: no such folder.")
    left = list(TABS)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=_CHROMIUM.split())
        for workdir in _WORKDIRS.value:
            if not Path(workdir).exists():
                say(f"{workdir} is not there")
                continue
            predictor = Predictor.load(workdir)
            names = [name for name in left if TABS[name][0] in predictor.methods]
            for name, times in visit_tabs(browser, predictor, names, folder):
                say(f"demo_{name}.png: {workdir}; {times}")
                left.remove(name)
        browser.close()
    if left:
        say(f"left out, since no run has them: {', '.join(TABS[name][1] for name in left)}")


if __name__ == "__main__":
    run_main(main, takes_config=False)
