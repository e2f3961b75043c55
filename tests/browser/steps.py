"""What a person does on the pages of the example."""

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

# The fixtures `open_page` and `take_picture`.
OpenPage = Callable[..., Page]
TakePicture = Callable[[Page, str], None]


def wait_until_live(page: Page) -> None:
    """Until the page follows the changes."""
    expect(page.get_by_text("Live", exact=True)).to_be_visible()


def add_task(page: Page, title: str) -> None:
    """Add a task by the form, and wait until the server has it."""
    form = page.get_by_role("form", name="New task")
    form.get_by_label("Title").fill(title)
    form.get_by_role("button", name="Add task").click()
    expect(page.get_by_role("link", name=title)).to_be_visible()


def row(page: Page, title: str) -> Locator:
    """The line of a task in the list."""
    return page.get_by_role("listitem").filter(has_text=title)


def is_completed(page: Page, title: str) -> Locator:
    """The box of a task in the list."""
    return page.get_by_role("checkbox", name=f"Completed: {title}")


def title_field(page: Page) -> Locator:
    """The field of a task's title, in the list and in the editor."""
    return page.get_by_role("textbox", name="Title", exact=True)


def fault(page: Page, text: str) -> Locator:
    """What went wrong, as the page says it."""
    return page.get_by_role("alert").get_by_text(text)
