"""The page, asked over HTTP as browsers do; tests/browser clicks through it."""

import concurrent.futures
import io
import itertools
import json
import re
import struct
import threading
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pixelbert_jax
from pixelbert_jax.predictor import Predictor

gradio = pytest.importorskip("gradio", reason="the page needs the extra demo")
gradio_client = pytest.importorskip("gradio_client")

from experiments.demo_page.page import lines_of, make_page, serve, thumbnail  # noqa: E402
from pixelbert_jax.errors import ConfigError  # noqa: E402

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def launch():
    """Serves pages on free ports of 127.0.0.1 until the tests are over; gives their addresses."""
    pages = []

    def launch(page) -> str:
        pages.append(page)
        return serve(page, max_upload="1mb")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        yield launch
    for page in pages:
        page.close(verbose=False)


@pytest.fixture(scope="module")
def matching(launch, pretrained, tmp_path_factory):
    """The page of a pre-trained model with a folder to search, its address and its predictor."""
    predictor, images = Predictor(pretrained), tmp_path_factory.mktemp("images")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    page = make_page(predictor, tmp_path_factory.mktemp("examples"), predictor.index(images))
    return page, launch(page), predictor, images


@pytest.fixture(scope="module")
def client(matching):
    return patient_client(matching[1])


def patient_client(url: str) -> gradio_client.Client:
    """A client that waits longer than httpx's five seconds, for busy machines."""
    return gradio_client.Client(url, verbose=False, httpx_kwargs={"timeout": 120})


def api_names(page) -> set[str]:
    return {name for fn in page.fns.values() if isinstance(name := fn.api_name, str)}


def test_tabs_are_what_the_heads_can_do(matching, vqa_run, tmp_path):
    assert {"match", "fill_mask", "search"} <= api_names(matching[0])
    asking = api_names(make_page(Predictor(pixelbert_jax.load(vqa_run)), tmp_path))
    assert "answer" in asking and not asking & {"match", "fill_mask", "search", "judge"}


def test_values_are_those_of_the_predictor(matching, client):
    _, _, predictor, images = matching
    file, texts = str(images / "0.png"), ["a red circle", "a blue square"]
    labels, words, seconds = client.predict(gradio_client.handle_file(file), "\n".join(texts), api_name="/match")
    found = {entry["label"]: entry["confidence"] for entry in labels["confidences"]}
    expected = dict(zip(texts, predictor.match(file, texts)[0], strict=True))
    assert found == pytest.approx(expected, abs=1e-5)
    assert "".join(word["token"] for word in words).strip() == max(expected, key=expected.get)
    assert seconds.endswith(" s") and float(seconds[:-2]) >= 0
    table, _ = client.predict(gradio_client.handle_file(file), "a [MASK] circle", api_name="/fill_mask")
    best = predictor.fill_mask(file, "a [MASK] circle")[0]
    assert [row[1] for row in table["data"]] == [token for token, _ in best]
    gallery, _ = client.predict("a red circle", api_name="/search")
    ranked = predictor.index(images).search("a red circle")
    assert [entry["caption"].split()[0] for entry in gallery] == [Path(name).name for name, _ in ranked]


def test_errors_are_one_sentence(client, matching, tmp_path):
    image = gradio_client.handle_file(str(matching[3] / "0.png"))
    cases = [
        (None, "a dog", "Give an image first"),
        (image, "  ", "Give a text first"),
        (image, "x" * 2001, "2,001 characters; give at most"),
        (image, "\n".join("ab"[i % 2] * (i + 1) for i in range(21)), "21 texts were given; give at most 20"),
        (image, "word " * 400, "more than the model's"),
    ]
    for given, text, message in cases:
        with pytest.raises(gradio_client.exceptions.AppError, match=message) as error:
            client.predict(given, text, api_name="/match")
        assert "\n" not in str(error.value)


def bomb() -> bytes:
    """A PNG of few bytes whose header promises 3.6 billion pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bomb.png", bomb()),
        ("page.png", b"<html><script>alert(1)</script></html>"),
        ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        ("empty.png", b""),
        ("cut.jpg", b"\xff\xd8\xff\xe0" + bytes(50)),
    ],
)
def test_hostile_uploads_are_refused(client, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    said = rf"^{re.escape(name)}: (over|not a JPEG|empty|damaged|.* pixels)"
    with pytest.raises(gradio_client.exceptions.AppError, match=said) as error:
        client.predict(gradio_client.handle_file(str(tmp_path / name)), "a dog", api_name="/match")
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_files_of_the_machine_are_not_read(matching, tmp_path):
    """Neither by a path in the request nor by a URL of the page."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    for path in (str(secret), "/etc/passwd", "../../../../etc/passwd"):
        body = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, "a dog"]}).encode()
        address = f"{matching[1]}gradio_api/call/match"
        call = urllib.request.Request(address, body, {"content-type": "application/json"})
        with urllib.request.urlopen(call) as answer:
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{address}/{event}", timeout=60) as answer:
            assert answer.read().startswith(b"event: error")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{matching[1]}gradio_api/file={path}")
        assert refused.value.code in (403, 404)


def test_uploads_are_limited(client, tmp_path):
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)).save(noise, "PNG")
    (tmp_path / "large.png").write_bytes(noise.getvalue())
    with pytest.raises(Exception, match=r"413|size|large"):
        client.predict(gradio_client.handle_file(str(tmp_path / "large.png")), "a dog", api_name="/match")


def test_browsers_are_told_to_load_nothing_from_elsewhere(matching):
    with urllib.request.urlopen(matching[1]) as answer:
        policy = answer.headers["content-security-policy"]
        body = answer.read().decode()
    assert "run, step 0" in body and str(Path(matching[2].loaded.path)) not in body
    assert "default-src 'self'" in policy and "http" not in policy
    with urllib.request.urlopen(f"{matching[1]}theme.css") as answer:
        assert "--font: system-ui, sans-serif;" in answer.read().decode()


def test_twenty_visitors_at_once(matching, client):
    """Each gets its own answer; none waits for ever."""
    image = gradio_client.handle_file(str(matching[3] / "0.png"))

    def visit(number: int) -> set[str]:
        texts = f"a text {number}\nb text {number}"
        labels, *_ = client.submit(image, texts, api_name="/match").result(timeout=120)
        return {entry["label"] for entry in labels["confidences"]}

    with concurrent.futures.ThreadPoolExecutor(20) as visitors:
        found = list(visitors.map(visit, range(20)))
    assert found == [{f"a text {i}", f"b text {i}"} for i in range(20)]


def test_a_full_queue_refuses_at_once(launch, pretrained, tmp_path):
    """One request runs and twenty wait for their answers; the others are told that the page is busy."""
    running, go_on = threading.Event(), threading.Event()
    predictor = Predictor(pretrained)

    def match(image, texts):
        running.set()
        assert go_on.wait(120)
        return np.full((1, len(texts)), 0.5)

    predictor.match = match
    url = launch(make_page(predictor, tmp_path))
    client = patient_client(url)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    image = gradio_client.handle_file(str(tmp_path / "a.png"))
    try:
        jobs = [client.submit(image, "text 0", api_name="/match")]
        assert running.wait(60)
        jobs += [client.submit(image, f"text {number}", api_name="/match") for number in range(1, 25)]
        refused = list(itertools.islice(concurrent.futures.as_completed([job.future for job in jobs], 60), 4))
        for future in refused:
            with pytest.raises(gradio_client.utils.QueueError, match=r"^Queue is full! Please try again\.$"):
                future.result()
        body = json.dumps({"data": [None, "a dog"]}).encode()
        call = urllib.request.Request(f"{url}gradio_api/call/match", body, {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as full:
            urllib.request.urlopen(call, timeout=60)
        assert full.value.code == 503 and b"Queue is full" in full.value.read()
    finally:
        go_on.set()
    answered = {number: job for number, job in enumerate(jobs) if job.future not in refused}
    assert len(answered) == 21
    for number, job in answered.items():
        assert job.result(timeout=60)[0]["label"] == f"text {number}"


def test_texts_and_thumbnails(tmp_path):
    assert lines_of(" a dog \n\n two cats") == ["a dog", "two cats"]
    with pytest.raises(ConfigError, match="21 texts were given"):
        lines_of("x\n" * 21)
    Image.new("RGB", (1000, 500)).save(tmp_path / "a.png")
    assert thumbnail(str(tmp_path / "a.png")).shape == (160, 320, 3)
