"""The report in a real browser: pictures open with their texts, keys work, nothing hostile runs, a phone has room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support.browser import running_chromium
from support.golden import golden_images
from support.report_stores import TITLES, write_run, write_store

from jobs.report.report import ReportSettings, write_report
from jobs.report.safe_text import visible

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>\u202egpj.exe"
LONG = "a hundred kilobytes " * 5_000
TEXTS = [f"What it says about {title}." for title in TITLES]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with thirty pictures, one of them hostile, one gone."""
    folder = tmp_path_factory.mktemp("report")
    images = golden_images()
    rows: list[dict[str, Any]] = [
        {"image_id": f"{n:02}.jpg", "uri": str(images[n % len(images)]), "score": 20.0 + 2 * n} for n in range(28)
    ]
    rows += [{"image_id": HOSTILE, "uri": str(images[0]), "score": 90.0}, {"image_id": "gone", "score": 95.0}]
    texts = {row["image_id"]: TEXTS for row in rows}
    texts[HOSTILE] = [HOSTILE, LONG, *TEXTS[2:]]
    store = write_store(folder / "out", [*rows, {"image_id": "bad", "error_type": "truncated"}], texts=texts)
    write_run(store, "photos")
    write_report(ReportSettings([str(folder / "out")], str(folder / "report.html")))
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as chromium:
        yield chromium


@pytest.fixture
def page(browser: Browser, report: str) -> Iterator[Page]:
    """The report, opened; at the end nothing has gone wrong in it and nothing was asked for."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    troubles: list[str] = []
    opened.on("console", lambda message: troubles.append(message.text))
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("request", lambda asked: troubles.append(asked.url) if asked.url[:5] not in ("data:", "file:") else None)
    opened.goto(report)
    opened.wait_for_selector(".tile")
    yield opened
    assert opened.title() == "out: scores"
    opened.close()
    assert troubles == []


def _tile(page: Page, hall: str, place: int) -> Any:
    page.locator(f"#{hall}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{hall} .tile")
    return page.locator(f"#{hall} .tile").nth(place)


def test_a_picture_opens_with_its_eight_texts(page: Page) -> None:
    _tile(page, "worst", 1).click()
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    assert page.locator("#viewer-name").inner_text() == "01.jpg"
    assert page.locator("#viewer-scores").inner_text().split() == ["Score", "22.00", "±", "9.00"]
    assert page.locator("#viewer-texts h3").all_inner_texts() == list(TITLES)
    assert page.locator("#viewer-texts p").all_inner_texts() == TEXTS
    image = page.locator("#viewer-picture img")
    assert image.evaluate("image => image.complete && image.naturalWidth") > 0
    assert image.get_attribute("alt") == "01.jpg, score 22.0"


def test_it_can_be_used_without_a_mouse(page: Page) -> None:
    from playwright.sync_api import expect

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    tile = _tile(page, "worst", 0)
    tile.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    name = page.locator("#viewer-name")
    assert name.inner_text() == "01.jpg"
    for key, now in (("ArrowRight", "02.jpg"), ("ArrowRight", "03.jpg"), ("ArrowLeft", "02.jpg")):
        page.keyboard.press(key)
        assert name.inner_text() == now
    page.keyboard.press("Escape")
    assert page.locator("#viewer").is_hidden()
    # The browser gives the focus back to where it came from, and tells of the closing a moment later.
    expect(page.locator(":focus")).to_have_attribute("aria-label", "02.jpg, score 24.0")
    # Of each gallery one tile is met by Tab, whatever their number.
    assert page.locator("#worst .tile[tabindex='0']").count() == 1


def test_hostile_names_and_texts_are_shown_as_text(page: Page) -> None:
    _tile(page, "best", 1).click()
    assert page.locator("#viewer-name").inner_text() == visible(HOSTILE)
    first, second = page.locator("#viewer-texts p").all()[:2]
    assert first.inner_text() == visible(HOSTILE)
    assert page.locator("#viewer-texts img, #viewer-texts script").count() == 0
    assert len(second.inner_text()) < 1_300
    page.locator("#viewer-texts button").click()
    assert second.inner_text().strip() == LONG.strip()


def test_a_picture_that_is_gone_says_so(page: Page) -> None:
    _tile(page, "best", 0).click()
    assert "Gone now: missing" in page.locator("#viewer-picture").inner_text()


def test_light_and_dark_follow_the_system_until_somebody_chooses(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert light != dark
    page.locator("#theme").click()
    assert page.evaluate(ground) == light
    page.reload()
    page.wait_for_selector(".tile")
    assert page.evaluate(ground) == light


def test_a_phone_has_room_for_it(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    page.wait_for_selector(".tile")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    _tile(page, "worst", 0).click()
    assert page.evaluate("document.getElementById('viewer').getBoundingClientRect().width") == 390
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_without_scripts_the_page_still_tells_all_but_the_pictures(browser: Browser, report: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    assert page.locator("#scores svg").first.is_visible()
    assert "does not run" in page.locator("noscript").inner_text()
    assert page.locator("#failures").is_visible()
    context.close()
