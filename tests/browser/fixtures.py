"""The fixtures of the tests that look through a browser: the example on each database, and pages of it."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.browser.app import EXAMPLE, Example, Person, running_example
from tests.browser.steps import OpenPage, TakePicture
from tests.fixtures.database import DIALECTS, migrated_database, skip_or_fail

PATIENCE = 60_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# What the browser itself prints about an answer of 400 or more and about a server that is away.
EXPECTED = re.compile(r"Failed to load resource|net::ERR_")


@pytest.fixture(scope="module")
def database_of_example(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database; a file that runs on one alone names it in `DIALECT`."""
    dialect = getattr(request, "param", getattr(request.module, "DIALECT", DIALECTS[0]))
    with migrated_database(dialect, request, tmp_path_factory.mktemp("example-database")) as url:
        yield url


@pytest.fixture(scope="module")
def example(
    database_of_example: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Example]:
    """The app with a new database of accounts, and its Duly."""
    tokens = getattr(request.module, "TOKENS", "jwks")
    own, folder = tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("example")
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with running_example(database_of_example, folder, shared_folder=shared, tokens=tokens) as started:
        yield started


@pytest.fixture(scope="module")
def browser(example: Example) -> Iterator[Browser]:
    """Chromium. It comes after the databases and ends before them: its event loop would be in their way."""
    if CHROMIUM is None:
        skip_or_fail("Chromium is needed to be a browser: apt-get install chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=PATIENCE)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser, example: Example) -> Iterator[OpenPage]:
    """Open a window, signed in as `person` if there is one; without a path it stays empty.

    No page may complain, of its policy or of anything else.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not EXPECTED.search(message.text):
            complaints.append(message.text)

    def open_(path: str | None = "/", person: Person | None = None, **options: Any) -> Page:
        settings = {"locale": "en-GB", "viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
        context = browser.new_context(base_url=example.app_url, **{**settings, **options})
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.on("console", note)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        if person is not None:
            context.add_cookies(person.cookies)
        page = context.new_page()
        if path is not None:
            page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def visitor(example: Example) -> Person:
    """Somebody new."""
    return example.sign_up("Ann Example")


@pytest.fixture
def take_picture() -> TakePicture:
    """Keep a picture of the page as `name`, where SCREENSHOTS names a folder."""

    def take(page: Page, name: str) -> None:
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{name}.png")

    return take


@pytest.fixture(scope="session")
def axe_source() -> str:
    """The script that looks for what keeps people with disabilities out; it comes with the example's packages."""
    return (EXAMPLE / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
