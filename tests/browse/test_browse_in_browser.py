"""Browsing in a real browser: search, keys, marks, stars; hostile names are text; a phone has room."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from support.browse_client import Client, browsing
from support.browser import running_chromium
from support.golden import golden_images
from support.report_stores import TITLES, write_store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.server

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>\u202egpj.exe"
SHOWN = HOSTILE.replace("\u202e", "⟨U+202E⟩")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as chromium:
        yield chromium


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """Three hundred pictures by falling score, the first of a hostile name and text, the second gone."""
    images = golden_images()
    rows: list[dict[str, Any]] = [
        {"image_id": f"{n:03}.jpg", "uri": str(images[n % len(images)]), "score": 90 - n / 10} for n in range(300)
    ]
    rows[0]["image_id"] = HOSTILE
    rows[1]["uri"] = str(tmp_path / "gone.jpg")
    rows += [{"image_id": "bad.jpg", "error_type": "truncated", "uri": str(images[0])}]
    texts = {row["image_id"]: [f"{row['image_id']} has a {title}." for title in TITLES] for row in rows[:-1]}
    write_store(tmp_path / "out", rows, texts=texts)
    with browsing(tmp_path / "out") as found:
        yield found


@pytest.fixture
def page(browser: Browser, client: Client) -> Iterator[Page]:
    """The page, opened; at the end nothing has gone wrong in it, and nobody else was asked for anything."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    opened.set_default_timeout(60_000)
    troubles: list[str] = []
    own = client.server.url
    # A picture that cannot be shown is an answer 404, which the console notes.
    opened.on("console", lambda said: troubles.append(said.text) if "404" not in said.text else None)
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("request", lambda asked: troubles.append(asked.url) if not asked.url.startswith((own, "data:")) else None)
    opened.goto(own)
    opened.wait_for_selector(".tile")
    yield opened
    assert opened.title() == "out: browse"
    opened.close()
    assert troubles == []


def _status(page: Page, text: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_contain_text(text, timeout=60_000)


def test_it_is_used_without_a_mouse(page: Page, client: Client) -> None:
    from playwright.sync_api import expect

    _status(page, "1–120 of 301 pictures")
    page.keyboard.press("ArrowRight")
    focused = page.locator(":focus")
    expect(focused).to_have_attribute("aria-label", f"{SHOWN}, 90.0 points")
    for key, label in (
        ("ArrowRight", "001.jpg"),
        ("ArrowRight", "002.jpg"),
        ("ArrowDown", "008.jpg"),
        ("End", "119.jpg"),
    ):
        page.keyboard.press(key)
        expect(focused).to_have_attribute("aria-label", re.compile(f"^{label},"))
    page.keyboard.press("ArrowRight")  # to the next page
    expect(focused).to_have_attribute("aria-label", re.compile("^120.jpg,"))
    _status(page, "121–240 of 301 pictures")
    page.keyboard.press("m")
    page.keyboard.press("Enter")
    expect(page.locator("#viewer-name")).to_have_text("120.jpg")
    expect(page.locator("#viewer-mark")).to_have_text("✓ Marked")
    page.keyboard.press("ArrowLeft")  # to the page before
    expect(page.locator("#viewer-name")).to_have_text("119.jpg")
    expect(page.locator("#viewer-place")).to_have_text("120 of 301")
    page.keyboard.press("m")
    expect(page.locator("#viewer-mark")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(focused).to_have_attribute("aria-label", re.compile("^119.jpg,.*, marked$"))
    expect(page.locator("#marks-count")).to_have_text("✓ 2 marked")
    assert set(client.ids(marked="1")) == {"119.jpg", "120.jpg"}


def test_a_picture_is_shown_large_with_its_numbers_and_texts(page: Page) -> None:
    page.locator(".tile").nth(4).click()
    page.wait_for_selector("#viewer-picture img[alt='004.jpg']:not([hidden])")
    assert page.locator("#viewer-picture img").evaluate_all(
        "images => images.map(image => image.naturalWidth > 0)"
    ) == [True]
    page.wait_for_selector("#viewer-texts h3")
    assert page.locator("#viewer-scores").inner_text().split() == ["Score", "89.60", "±", "9.00"]
    assert page.locator("#viewer-texts h3").all_inner_texts() == list(TITLES)
    page.locator("#previous").click()
    page.locator("#previous").click()
    page.locator("#previous").click()
    page.locator("#viewer-picture").get_by_text("missing: ").wait_for()


def test_searches_and_filters_change_what_is_shown_and_outlast_a_reload(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("09.JPG")
    _status(page, "1–3 of 3 found")
    page.locator("#score_to").fill("80")
    _status(page, "1–2 of 2 found")
    page.reload()
    _status(page, "1–2 of 2 found")
    assert page.locator(".tile .name").all_inner_texts() == ["109.jpg", "209.jpg"]
    page.locator("#scope").select_option("texts")
    page.locator("#words").fill("109.jpg has a Composition")
    _status(page, "1–1 of 1 found")
    page.locator("#reset").click()
    page.locator("#outcome").select_option("truncated")
    _status(page, "1–1 of 1 found")
    assert page.locator(".tile .failed").inner_text() == "truncated"
    page.locator("#words").fill("nowhere")
    page.wait_for_selector("#none")


def test_hostile_names_and_texts_are_shown_as_text(page: Page) -> None:
    assert page.locator(".tile .name").first.inner_text() == SHOWN
    page.locator(".tile").first.click()
    page.wait_for_selector("#viewer-texts p")
    assert page.locator("#viewer-name").inner_text() == SHOWN
    assert page.locator("#viewer-texts p").first.inner_text() == f"{SHOWN} has a {TITLES[0]}."
    assert page.locator("#viewer-texts img, #viewer-texts script, .name img").count() == 0


def test_marks_become_a_manifest_and_stars(page: Page, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page.locator("li .mark").nth(1).click(force=True)
    page.locator("li .mark").nth(2).click(force=True)
    expect(page.locator("#marks-count")).to_have_text("✓ 2 marked")
    with page.expect_download() as download:
        page.locator("#marks-manifest").click()
    download.value.save_as(tmp_path / "marks.parquet")
    assert pq.read_table(tmp_path / "marks.parquet")["image_id"].to_pylist() == ["001.jpg", "002.jpg"]
    page.locator("#marks-show").click()
    _status(page, "1–2 of 2 found")
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#marks-clear").click()
    _status(page, "1–120 of 301 pictures")
    assert page.locator("#marks").is_hidden()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_screen_and_a_phone_have_room_for_it(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.locator("li .mark").first.click(force=True)
    page.locator("#marks-count").wait_for()
    across = "document.documentElement.scrollWidth"
    assert page.evaluate(across) == width
    if width == 390:
        page.locator("#filters-shown").click()
    assert page.locator("#score_from").is_visible()
    assert page.evaluate(across) == width
    page.locator("#marks-stars").click()
    box = page.locator("#stars").bounding_box()
    assert box
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    page.locator("#stars-close").click()
    page.locator(".tile").nth(2).click()
    page.wait_for_selector("#viewer-picture img[alt='002.jpg']:not([hidden])")
    assert page.evaluate(across) == width
    picture = page.locator("#viewer-picture").bounding_box()
    assert picture
    assert picture["height"] > 844 * 0.4
