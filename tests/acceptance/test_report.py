"""The report of 5,000 images in a real browser, which must be installed (Debian: chromium)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.acceptance.large_report import EVIL, browser, large_report, opened


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    large_report(path, 5000)
    return path


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def page(path: Path, running: Browser) -> Iterator[Page]:
    """A page that stays silent, whatever is done to it."""
    page = running.new_page(viewport={"width": 1280, "height": 900})
    messages = opened(page, path)
    yield page
    assert messages == []


@pytest.fixture(autouse=True)
def reset(page: Page) -> None:
    page.get_by_role("button", name="Reset").click()
    page.evaluate("new Promise((done) => setTimeout(done))")  # the cards are replaced before


def count(page: Page) -> str:
    return page.locator("#count").inner_text()


def titles(page: Page) -> list[str]:
    return page.locator("#cards h3").all_text_contents()


def test_file_is_below_30_megabytes(path):
    assert path.stat().st_size < 30_000_000


def test_failures_come_first_and_few_cards_are_built(page):
    assert count(page) == "5,000 of 5,000 images"
    marks = page.locator("#cards .marks").all_text_contents()
    assert all("✗ oracle" in mark for mark in marks)
    assert 12 <= len(marks) <= 100


def test_cards_are_added_as_one_scrolls(page):
    before = page.locator("#cards li").count()
    page.locator("footer").scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    assert page.locator("#cards li").count() > before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("Target", "coat"), ("Source", "猫"), ("r*", "0.7"), ("Oracle", "confirmed")),
        *(("Choice of r*", "unclear"), ("Task", "3")),
    ],
)
def test_filter_shows_what_it_names_alone(page, name, value):
    page.get_by_label(name, exact=True).select_option(value)
    number = int(count(page).split(" of ")[0].replace(",", ""))
    assert 0 < number < 5000
    cards = page.locator("#cards li").all_text_contents()
    sign = {
        "Target": f"→ {value}",
        "Source": f"{value} →",
        "r*": f"r* = {value}",
        "Oracle": "✓ oracle",
        "Choice of r*": "unclear choice",
        "Task": f"task {value}",
    }[name]
    assert all(sign in card for card in cards)


def test_filters_combine_and_may_leave_nothing(page):
    page.get_by_label("Source", exact=True).select_option("bag")
    page.get_by_label("Target", exact=True).select_option("coat")
    assert set(titles(page)) == {"bag → coat"}
    page.get_by_label("Target", exact=True).select_option("bag")
    assert count(page) == "0 of 5,000 images"
    assert titles(page) == []


def test_least_clear_choices_come_first_where_asked(page):
    page.get_by_label("Order").select_option("least clear first")
    marks = page.locator("#cards .marks").all_text_contents()
    assert "unclear choice (1.00)" in marks[0]


def test_markup_in_a_class_name_is_text(page):
    page.get_by_label("Target", exact=True).select_option(EVIL)
    assert {title.partition(" → ")[2] for title in titles(page)} == {EVIL}
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("#cards img[alt*=onerror]").count() > 0


def test_pictures_are_drawn_and_described(page):
    image = page.locator("#cards .kept img").first
    image.scroll_into_view_if_needed()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert "kept" in image.get_attribute("alt")


def test_keyboard_reaches_and_works_the_filters(page):
    page.get_by_label("Target", exact=True).focus()
    page.keyboard.press("ArrowDown")
    assert count(page) != "5,000 of 5,000 images"
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.id")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert (focused, outline) == ("source", "solid")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_its_window_and_follows_the_colour_scheme(path, running, scheme, width):
    page = running.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert opened(page, path) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.close()
    light = sum(map(int, ground[4:-1].split(","))) > 3 * 128
    assert light == (scheme == "light")
