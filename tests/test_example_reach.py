"""The example app for everybody: keyboard, phone, screen reader, light and dark; and what goes in and out as files."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.app import Example, Person
from tests.browser.steps import OpenPage, TakePicture, add_task, fault, is_completed, row, title_field, wait_until_live

pytest_plugins = ("tests.browser.fixtures",)
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
NAME_IN_FOCUS = """() => {
  const element = document.activeElement
  return element.getAttribute("aria-label") ?? element.labels?.[0]?.firstChild.textContent ?? element.textContent
}"""


def tab_to(page: Page, name: str, key: str = "Tab") -> None:
    """Press the key until what has this name is in focus, and see that the focus can be seen."""
    for _ in range(60):
        page.keyboard.press(key)
        if page.evaluate(NAME_IN_FOCUS) == name:
            assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return
    pytest.fail(f"the keyboard does not lead to {name}")


def test_the_keyboard_is_enough(open_page: OpenPage, visitor: Person) -> None:
    page = open_page("/", visitor)
    wait_until_live(page)
    tab_to(page, "Title")
    page.keyboard.type("Water the plants")
    page.keyboard.press("Enter")
    expect(row(page, "Water the plants")).to_be_visible()
    expect(title_field(page)).to_be_focused()
    tab_to(page, "Completed: Water the plants")
    page.keyboard.press("Space")
    expect(is_completed(page, "Water the plants")).to_be_checked()
    tab_to(page, "Water the plants")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Edit task")).to_be_visible()
    wait_until_live(page)
    tab_to(page, "Title")
    page.keyboard.press("End")
    page.keyboard.type(" twice")
    tab_to(page, "Save")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Saved.")).to_be_visible()
    tab_to(page, "← All tasks", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(row(page, "Water the plants twice")).to_be_visible()
    wait_until_live(page)
    tab_to(page, "Delete: Water the plants twice")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    tab_to(page, "Undo", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(row(page, "Water the plants twice")).to_be_visible()


def test_a_choice_between_two_versions_holds_the_focus(example: Example, open_page: OpenPage, visitor: Person) -> None:
    page = open_stale(example, open_page, visitor)
    tab_to(page, "Go on editing")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(title_field(page)).to_have_value("Mine")


def open_stale(example: Example, open_page: OpenPage, person: Person, **options: Any) -> Page:
    """The editor with the question which of two versions to keep."""
    task = example.add_task(person, "Renew the passport", description="x" * 300, tags=["y" * 50])
    page = open_page(f"/tasks/{task['id']}", person, **options)
    wait_until_live(page)
    title_field(page).fill("Mine")
    example.api(person, "PATCH", f"/tasks/{task['id']}", json={"title": "Theirs"})
    expect(page.get_by_text("has changed in another window")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    return page


def test_a_phone_shows_everything_without_scrolling_sideways(
    example: Example, open_page: OpenPage, visitor: Person, take_picture: TakePicture
) -> None:
    example.add_task(visitor, "W" * 200, tags=["t" * 50, "home"], priority="urgent", due_date="2026-01-31T09:00:00Z")
    pages = [
        open_page("/sign-in", **PHONE),
        open_page("/", visitor, **PHONE),
        open_stale(example, open_page, visitor, **PHONE),
    ]
    for number, page in enumerate(pages):
        take_picture(page, f"phone-{number}")
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), page.url
        small = """() => [...document.querySelectorAll("button, summary, input, select, textarea")]
          .filter((element) => element.checkVisibility() && element.getBoundingClientRect().height < 20)
          .map((element) => element.outerHTML)"""
        assert page.evaluate(small) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_people_with_disabilities_out(
    example: Example, open_page: OpenPage, visitor: Person, *, take_picture: TakePicture, axe_source: str, scheme: str
) -> None:
    options: dict[str, Any] = {"color_scheme": scheme}
    example.add_task(visitor, "Overdue", priority="urgent", due_date="2026-01-31T09:00:00Z", tags=["home", "work"])
    example.add_task(visitor, "Done", priority="low", completed=True)
    board = open_page("/", visitor, **options)
    wait_until_live(board)
    add_task(board, "Thrown away")
    board.get_by_role("button", name="Delete: Thrown away").click()
    expect(board.get_by_role("button", name="Undo")).to_be_visible()
    board.get_by_role("form", name="New task").get_by_text("Priority, due date, tags").click()
    pages = {
        "board": board,
        "sign-in": open_page("/sign-in", **options),
        "not-found": open_page("/tasks/none", visitor, **options),
        "versions": open_stale(example, open_page, visitor, **options),
    }
    for name, page in pages.items():
        take_picture(page, f"{name}-{scheme}")
        page.evaluate(axe_source)
        found = page.evaluate("async () => (await axe.run()).violations")
        grave = [
            (item["id"], [node["target"] for node in item["nodes"]])
            for item in found
            if item["impact"] in {"serious", "critical"}
        ]
        assert grave == [], name


def test_search_and_filters_are_in_the_address(example: Example, open_page: OpenPage, visitor: Person) -> None:
    example.add_task(visitor, "Water the plants", tags=["home"], priority="high")
    example.add_task(visitor, "Book the train", tags=["travel"])
    page = open_page("/", visitor)
    page.get_by_role("searchbox", name="Search").fill("plants")
    expect(page.get_by_text("1 task found")).to_be_visible()
    expect(row(page, "Book the train")).to_have_count(0)
    expect(page).to_have_url(f"{example.app_url}/?search=plants")
    page.reload()
    expect(page.get_by_role("searchbox", name="Search")).to_have_value("plants")
    expect(page.get_by_text("1 task found")).to_be_visible()
    page.get_by_role("searchbox", name="Search").fill("")
    page.get_by_role("button", name="Show the tag travel").click()
    expect(page.get_by_text("1 task found")).to_be_visible()
    expect(row(page, "Book the train")).to_be_visible()
    example.add_task(visitor, "Pack", tags=["travel"])
    expect(row(page, "Pack")).to_be_visible()


def test_every_export_is_a_file(example: Example, open_page: OpenPage, visitor: Person) -> None:
    example.add_task(visitor, "Water the plants")
    page = open_page("/", visitor)
    texts = {}
    for kind in ("JSON", "CSV", "ICS"):
        with page.expect_download() as download:
            page.get_by_role("button", name=kind).click()
        assert download.value.suggested_filename.endswith(f".{kind.lower()}")
        texts[kind] = Path(download.value.path()).read_text(encoding="utf-8")
    assert [task["title"] for task in json.loads(texts["JSON"])["tasks"]] == ["Water the plants"]
    assert texts["CSV"].splitlines()[1].count("Water the plants") == 1
    assert texts["ICS"].startswith("BEGIN:VCALENDAR")


@pytest.mark.covers("A127")
def test_an_attachment_comes_back_as_it_was(
    example: Example, open_page: OpenPage, visitor: Person, tmp_path: Path
) -> None:
    task = example.add_task(visitor, "Renew the passport")
    page = open_page(f"/tasks/{task['id']}", visitor)
    file, large = tmp_path / "Größe & Maß.bin", tmp_path / "large.bin"
    file.write_bytes(bytes(range(256)) * 100)
    large.write_bytes(b"x" * 200_001)
    page.get_by_label("Attach a file").set_input_files(file)
    expect(page.get_by_text(f"Attached {file.name}.")).to_be_visible()
    page.get_by_label("Attach a file").set_input_files(large)
    expect(fault(page, "This is too large.")).to_be_visible()
    page.reload()
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Download {file.name}").click()
    assert download.value.suggested_filename == file.name
    assert Path(download.value.path()).read_bytes() == file.read_bytes()
    page.get_by_role("button", name=f"Delete {file.name}").click()
    expect(page.get_by_text(f"Deleted {file.name}.")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Attachments")).to_be_visible()
    expect(page.get_by_text(file.name)).to_have_count(0)
