"""The page in a real Chromium, from choosing photos to the result; `make test-browser` runs this.

CHROMIUM names the browser; SCREENSHOTS, if set, is a folder for pictures of the page.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

import combine
from common.data.layout import Face
from common.data.split import make_split
from common.model import checkpoint
from common.model.weights import create_classifier
from tests.photos import exif_photo
from tests.test_faces import crowd
from tests.tiny import ROOT, environment

FLAGS = [
    "--no-sandbox",  # in a container there is no other way
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
WAIT = 60_000  # ms
NAMES = ("wall.png", "notes.jpg", "crowd.png")


@pytest.fixture(scope="module")
def folder(faces: tuple[Face, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three untrained models, and photos: a crowd of three, a wall, a text, a phone's."""
    place = tmp_path_factory.mktemp("page")
    split = make_split({face.person for face in faces}, folds=2, fold=0, limit=None)[1]
    for recipe in combine.TASKS:
        own = recipe(model="test_efficientnet", size=(48, 48), pretrained=False, crop="face")
        model, _ = create_classifier(own)
        card = checkpoint.make_card(
            own, model, split=split, metrics={}, decision=checkpoint.UNCALIBRATED
        )
        checkpoint.save(place / f"{own.task[0]}.pt", card, model.backbone.state_dict())
    people = [cv2.imread(str(face.path)) for face in faces if face.view == "normal"]
    cv2.imwrite(str(place / "crowd.png"), crowd(people, (330, 200, 260)))
    shutil.copy(next(f.path for f in faces if f.view == "mask1"), place / "one.jpg")
    (place / "wall.png").write_bytes(cv2.imencode(".png", crowd([], (400,)))[1].tobytes())
    (place / "notes.jpg").write_bytes(b"<script>alert(1)</script>")
    (place / "phone.jpg").write_bytes(exif_photo(6))
    (place / "phone.webp").write_bytes(exif_photo(6, "WEBP"))
    return place


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """URL of the running command."""
    files = [f"--{task}={folder / task[0]}.pt" for task in combine.CODES.classes]
    command = [sys.executable, ROOT / "combine.py", *files, "--serve", "0", "--device", "cpu"]
    with subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line.startswith("serving "):
                break
        yield line.split()[1].rstrip(",")
        process.terminate()
        assert process.wait(timeout=60) == 143


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    assert path, "no Chromium: CHROMIUM=… names one"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """Opens pages with the given browser settings, and collects what must not happen."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser, self.url, self.trouble = browser, url, []
        self.contexts = []

    def __call__(self, **settings: object) -> Page:
        context = self.browser.new_context(**settings)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: self.other(request.url))
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("console", self.note)
        page.on("dialog", lambda dialog: self.trouble.append(dialog.message))
        # Playwright intercepts file choosers only once there is a listener.
        page.on("filechooser", lambda _: None)
        page.goto(self.url)
        return page

    def other(self, address: str) -> None:
        if not address.startswith((f"{self.url}/", "blob:", "data:")):
            self.trouble.append(address)

    def note(self, message: ConsoleMessage) -> None:
        """Collect messages, except Chromium's own about a status of 422."""
        if "the server responded with a status of 422" not in message.text:
            self.trouble.append(message.text)


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Visit]:
    visitor = Visit(browser, url)
    yield visitor
    for context in visitor.contexts:
        context.close()
    assert not visitor.trouble


def give(page: Page, folder: Path, *names: str) -> None:
    """Choose files, and wait for each result."""
    page.set_input_files("#files", [folder / name for name in names])
    expect(page.locator(".done, .failed")).to_have_count(len(names), timeout=WAIT)


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_from_upload_to_result(visit: Visit, folder: Path) -> None:
    page = visit()
    give(page, folder, *NAMES)
    expect(page.locator("p.code")).to_be_hidden()
    page.get_by_label("Show codes").check()
    expect(page.locator("p.code")).to_have_text("The code is mask × 6 + gender × 3 + age.")
    wall, notes, people = page.locator("article").all()
    expect(people.locator("h2")).to_have_text("crowd.png")
    expect(people.get_by_text(re.compile(r"^3 faces: (\d .*)+$"))).to_be_visible()
    expect(people.locator(".face")).to_have_count(3)
    for number, card in enumerate(people.locator(".face").all(), 1):
        line = card.locator("summary").inner_text().split("\n")
        assert line[0] == str(number) and len(line) == 5 and "code" in line[-1]
        expect(card.locator("dl")).to_be_hidden()
        card.locator("summary").click()
        expect(card.locator("dt")).to_have_text(["Mask", "Gender", "Age", "Years"])
        expect(card.locator("dd").last).to_have_text(re.compile(r"^about \d+ \(80%: \d+ to \d+\)$"))
        expect(card.locator(".probability")).to_have_count(8)
        expect(card.locator(".probability.chosen")).to_have_count(3)
        numbers = [float(n.rstrip("%")) for n in card.locator(".number").all_inner_texts()]
        assert sum(numbers) == pytest.approx(300, abs=0.5)
        expect(card.locator(".code")).to_contain_text("code ")
    photo = people.locator("img").bounding_box()
    assert photo["width"] > 900, "a photo of 790 pixels is enlarged"
    boxes = [box.bounding_box() for box in people.locator(".box").all()]
    middles = [(box["x"] + box["width"] / 2 - photo["x"]) / photo["width"] for box in boxes]
    for middle, (left, right) in zip(middles, ((0, 330), (330, 530), (530, 790)), strict=True):
        assert left / 790 < middle < right / 790
    expect(wall.get_by_text("no face found: centre crop")).to_have_count(2)
    expect(wall.locator(".box.centre")).to_be_visible()
    expect(notes.locator(".problem")).to_contain_text("no prediction: not a photo")
    picture(page, "light")
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator("article")).to_have_count(0)


def test_boxes_fit_the_photo_as_shown(visit: Visit, folder: Path) -> None:
    """Rotated by its EXIF tag as in the service; otherwise there are no boxes."""
    page = visit()
    give(page, folder, "phone.jpg")
    size = page.locator("img").bounding_box()
    assert size["height"] / size["width"] == pytest.approx(64 / 48, rel=0.02)
    expect(page.locator(".box")).to_have_count(1)
    page.get_by_role("button", name="Remove all").click()
    give(page, folder, "phone.webp")
    shown = page.locator("img").bounding_box()
    fits = shown["height"] > shown["width"]
    expect(page.locator(".box")).to_have_count(int(fits))
    expect(page.get_by_text("the boxes wouldn't fit")).to_have_count(int(not fits))


def test_by_keyboard_alone_and_read_aloud(visit: Visit, folder: Path) -> None:
    page = visit()
    seen = []
    for _ in range(4):
        page.keyboard.press("Tab")
        seen.append(page.locator(":focus").get_attribute("id"))
        outline = page.locator(":focus-visible, #files:focus-visible + label").last
        assert outline.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
        if seen[-1] == "files":
            with page.expect_file_chooser() as chooser:
                page.keyboard.press("Enter")
            chooser.value.set_files(folder / "one.jpg")
            expect(page.locator(".done")).to_have_count(1, timeout=WAIT)
    assert seen == ["language", "files", "camera", "codes"]
    page.keyboard.press("Space")
    expect(page.locator("p.code")).to_be_visible()
    names = []
    for _ in range(5):
        page.keyboard.press("Tab")
        names.append(page.locator(":focus").inner_text().split("\n")[0])
    assert names == ["CSV", "JSON", "Remove all", "Picture", "1"]
    expect(page.locator(".box.chosen")).to_have_count(1)
    expect(page.locator("details")).to_have_attribute("open", "")  # the only face
    page.keyboard.press("Enter")
    expect(page.locator("dl")).to_be_hidden()
    said = page.get_by_role("log").locator("p").last
    expect(said).to_contain_text(
        re.compile(r"one.jpg: 1 face: .*\. Face 1: mask .*, age about \d+")
    )
    label = page.locator("#files")
    expect(label).to_have_accessible_name("Choose photos")
    expect(label).to_have_accessible_description("Up to 10 MB each. Nothing is stored.")
    expect(page.get_by_role("img")).to_have_accessible_name(re.compile("one.jpg: 1 face: .+"))
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator("#files")).to_be_focused()


def test_korean_and_back(visit: Visit, folder: Path) -> None:
    page = visit(locale="ko-KR")
    expect(page.get_by_role("heading", level=1)).to_have_text("마스크 · 성별 · 연령대")
    give(page, folder, "one.jpg", "wall.png", "notes.jpg")
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    expect(page.locator("dt").first).to_have_text("마스크")
    expect(page.locator(".failed .problem")).to_have_text(
        "결과 없음: 지원하는 사진 형식이 아니거나 파일 앞부분이 손상되었습니다"
    )
    assert not [word for word in page.locator("main").inner_text().split() if "undefined" in word]
    picture(page, "korean")
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("dt").first).to_have_text("Mask")
    expect(page.locator(".done")).to_have_count(2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_dark_and_a_phones_width(visit: Visit, folder: Path, scheme: str) -> None:
    page = visit(color_scheme=scheme, viewport={"width": 360, "height": 740})
    give(page, folder, *NAMES)
    wide = page.locator("html").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert wide[0] == wide[1], "it scrolls sideways"
    picture(page, f"phone-{scheme}")
    page.get_by_label("Show codes").check()
    page.locator("summary").last.click()
    for text in (
        ".number",
        ".code",
        ".label",
        "summary span",
        ".soft",
        ".note",
        "dt",
        ".problem",
        "#camera",
        "label.button",
    ):
        ratio = page.locator(text).first.evaluate(CONTRAST)
        assert ratio >= 4.5, (text, ratio)  # WCAG 2.2, AA


CONTRAST = """element => {
  const light = (colour) => {
    const parts = colour.match(/[0-9.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  let ground = element;
  while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
  const pair = [light(getComputedStyle(element).color), light(getComputedStyle(ground).backgroundColor)];
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""


def test_the_camera_takes_a_photo(visit: Visit) -> None:
    page = visit(permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("button", name="Take the photo")).to_be_focused()
    page.locator("video").evaluate(
        "v => v.videoWidth || new Promise(done => v.addEventListener('loadeddata', done))"
    )
    page.keyboard.press("Enter")
    expect(page.locator(".done h2")).to_have_text("camera.jpg", timeout=WAIT)
    expect(page.locator("video")).to_be_hidden()
    assert page.locator("video").evaluate("v => v.srcObject") is None


def test_a_live_camera_until_it_is_closed(visit: Visit) -> None:
    page = visit(permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    live = page.get_by_role("button", name="Live")
    with page.expect_response("**/predict"):
        live.click()
    page.wait_for_event("response", lambda response: response.url.endswith("/predict"))
    expect(live).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#seen")).to_have_text(re.compile("no face found|face"))
    page.get_by_role("button", name="Close the camera").click()
    expect(page.locator("#viewfinder")).to_be_hidden()
    page.wait_for_timeout(1000)  # the last request may still run
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    page.wait_for_timeout(1000)
    assert not sent
    expect(page.locator("article")).to_have_count(0)


def test_saved_as_csv_json_and_picture(visit: Visit, folder: Path, tmp_path: Path) -> None:
    page = visit()
    give(page, folder, *NAMES)
    for name in ("CSV", "JSON", "Save: Picture (crowd.png)"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
    photos = json.loads((tmp_path / "faces.json").read_text())["photos"]
    assert [photo["name"] for photo in photos] == list(NAMES)
    faces = photos[2]["faces"]
    with (tmp_path / "faces.csv").open(encoding="utf-8-sig", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["ImageID"] for row in rows] == ["wall.png", "notes.jpg", *["crowd.png"] * 3]
    assert rows[1]["error"].startswith("no prediction") and not rows[1]["code"]
    assert [int(row["code"]) for row in rows[2:]] == [face["code"] for face in faces]
    assert [float(row["years"]) for row in rows[2:]] == [face["years"] for face in faces]
    drawn = np.asarray(Image.open(tmp_path / "crowd.faces.jpg").convert("RGB"), int)
    shown = cv2.resize(cv2.imread(str(folder / "crowd.png"))[:, :, ::-1], drawn.shape[1::-1])
    assert drawn.shape[1] == 960
    for x0, y0, x1, _ in (face["box"] for face in faces):
        middle = round((x0 + x1) / 2 * 960 / 790), round(y0 * 960 / 790)
        edge = np.s_[middle[1] - 3 : middle[1] + 4, middle[0] - 3 : middle[0] + 4]
        assert np.abs(drawn[edge] - shown[edge]).max() > 60, "no box there"


def test_two_digit_numbers_keep_their_line(visit: Visit, folder: Path) -> None:
    page = visit(viewport={"width": 390, "height": 844})
    give(page, folder, "crowd.png")
    heights = page.locator("article figure").evaluate(
        """figure => ["8", "88"].map((words) => {
          const label = document.createElement("div");
          Object.assign(label, { className: "label", textContent: words });
          Object.assign(label.style, { right: 0, width: "min-content" });
          figure.append(label);
          return label.offsetHeight;
        })"""
    )
    assert heights[0] == heights[1]


def test_dropped_and_pasted(visit: Visit, folder: Path) -> None:
    page = visit()
    for event, field in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.locator("#give").evaluate(
            """(target, [event, field]) => {
              const data = new DataTransfer();
              data.items.add(new File(["no photo"], `${event}.png`, { type: "image/png" }));
              const happens = new Event(event, { bubbles: true, cancelable: true });
              Object.defineProperty(happens, field, { value: data });
              target.dispatchEvent(happens);
            }""",
            [event, field],
        )
    expect(page.locator(".failed h2")).to_have_text(["paste.png", "drop.png"], timeout=WAIT)


def test_a_service_that_is_gone_is_reported(visit: Visit, folder: Path) -> None:
    page = visit()
    page.context.set_offline(True)
    give(page, folder, "one.jpg")
    expect(page.locator(".problem").last).to_contain_text("the service doesn't respond")
    visit.trouble.clear()  # Chromium reports that the network is gone
