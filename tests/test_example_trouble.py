"""The example app when something goes wrong: the server away, an answer that refuses, a limit, a wrong field."""

import json
from typing import Any

import pytest
from playwright.sync_api import APIResponse, Route, expect

from tests.browser.app import Example, Person
from tests.browser.steps import OpenPage, TakePicture, add_task, fault, is_completed, row, title_field, wait_until_live

pytest_plugins = ("tests.browser.fixtures",)
DIALECT = "postgresql"


def answer(route: Route, origin: str, status: int, **headers: str) -> None:
    """The server's own shape of an error, for a state that a test cannot bring the server into."""
    problem = {
        "type": "urn:duly:problem:some-code", "title": "A title", "status": status, "detail": "Said by the server.",
        "instance": "/api/v1/tasks", "code": "SOME_CODE", "request_id": "11111111-1111-4111-8111-111111111111",
    }  # fmt: skip
    cross_origin = {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "Retry-After, X-Request-ID"}
    route.fulfill(
        status=status, body=json.dumps(problem), content_type="application/problem+json",
        headers={**cross_origin, "X-Request-ID": problem["request_id"], **headers},  # type: ignore[dict-item]
    )  # fmt: skip


@pytest.mark.covers("E115", "C128")
def test_the_page_outlasts_a_server_that_goes_away(
    example: Example, open_page: OpenPage, visitor: Person, take_picture: TakePicture
) -> None:
    page = open_page("/", visitor)
    wait_until_live(page)
    add_task(page, "Written before")
    example.kill_duly()
    banner = page.get_by_text("The task server cannot be reached.")
    try:
        expect(banner.first).to_be_visible()
        is_completed(page, "Written before").click()
        expect(fault(page, "Nothing was changed.")).to_be_visible()
        expect(is_completed(page, "Written before")).not_to_be_checked()
        page.get_by_role("form", name="New task").get_by_label("Title").fill("Written meanwhile")
        page.get_by_role("button", name="Add task").click()
        expect(fault(page, "No answer from the task server.")).to_be_visible()
        expect(title_field(page)).to_have_value("Written meanwhile")
        take_picture(page, "away")
        late = open_page("/", visitor)
        expect(late.get_by_text("Reading …")).to_be_visible()
        editor = open_page(f"/tasks/{example.settings['port']}", visitor)
        expect(editor.get_by_text("The task server does not answer.")).to_be_visible()
    finally:
        example.start_duly()
    wait_until_live(page)
    expect(banner).to_have_count(0)
    page.get_by_role("button", name="Add task").click()
    expect(row(page, "Written meanwhile")).to_have_count(1)
    expect(row(late, "Written meanwhile")).to_have_count(1)
    expect(editor.get_by_role("heading", name="Not found")).to_be_visible()


def test_what_happened_while_the_stream_was_cut_is_not_missed(
    example: Example, open_page: OpenPage, visitor: Person
) -> None:
    page = open_page("/", visitor)
    wait_until_live(page)
    page.route("**/api/v1/events", lambda route: route.abort())
    example.kill_duly()
    example.start_duly()
    expect(page.get_by_text("The task server cannot be reached.")).to_be_visible()
    example.add_task(visitor, "Made elsewhere")
    page.unroute_all()
    page.get_by_role("button", name="Try now").click()
    expect(row(page, "Made elsewhere")).to_be_visible()
    expect(page.get_by_role("button", name="Try now")).to_have_count(0)


def test_an_edit_shows_at_once_and_is_taken_back_when_it_is_refused(
    example: Example, open_page: OpenPage, visitor: Person
) -> None:
    example.add_task(visitor, "Water the plants")
    page = open_page("/", visitor)
    wait_until_live(page)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/complete", hold)
    is_completed(page, "Water the plants").click()
    expect(is_completed(page, "Water the plants")).to_be_checked()
    while not held:  # the page shows it before it asks
        page.wait_for_timeout(50)
    answer(held[0], example.app_url, 500)
    expect(fault(page, "tell us this number: 11111111-1111-4111-8111-111111111111")).to_be_visible()
    expect(is_completed(page, "Water the plants")).not_to_be_checked()


def test_a_task_that_the_stream_brings_before_the_answer_shows_once(open_page: OpenPage, visitor: Person) -> None:
    page = open_page("/", visitor)
    wait_until_live(page)
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/api/v1/tasks", lambda route: held.append((route, route.fetch())))
    form = page.get_by_role("form", name="New task")
    form.get_by_label("Title").fill("  Water the cafe\u0301 plants ")  # Duly trims it, and composes the letter
    form.get_by_role("button", name="Add task").click()
    while not held:  # Duly has it, and the page does not know
        page.wait_for_timeout(50)
    is_deletable = page.get_by_role("button", name="Delete: Water the caf\u00e9 plants", disabled=False)
    expect(is_deletable).to_be_visible()
    expect(row(page, "Water the caf\u00e9 plants")).to_have_count(1)
    route, response = held[0]
    route.fulfill(response=response)
    expect(page.get_by_text("Added “")).to_be_visible()
    expect(row(page, "Water the caf\u00e9 plants")).to_have_count(1)


@pytest.mark.covers("E115")
@pytest.mark.parametrize(
    ("status", "headers", "text"),
    [
        (403, {}, "You are not allowed to do this. Said by the server."),
        (404, {}, "This is not there any more."),
        (409, {}, "Said by the server."),
        (503, {"Retry-After": "17"}, "The task server is not available right now. Try again in 17 seconds."),
        (504, {}, "The task server took too long and gave up."),
    ],
)
def test_every_refusal_is_said_in_words(
    example: Example, open_page: OpenPage, visitor: Person, *, status: int, headers: dict[str, str], text: str
) -> None:
    example.add_task(visitor, "Water the plants")
    page = open_page("/", visitor)
    # The page reads its list once more when its stream begins; what it drops before that would come back.
    expect(page.get_by_text("1 task", exact=True)).to_be_visible()
    page.route("**/complete", lambda route: answer(route, example.app_url, status, **headers))
    is_completed(page, "Water the plants").click()
    expect(fault(page, text)).to_be_visible()
    if status == 404:
        expect(row(page, "Water the plants")).to_have_count(0)


@pytest.mark.covers("E115")
def test_a_wrong_field_is_marked_and_nothing_typed_is_lost(
    open_page: OpenPage, visitor: Person, take_picture: TakePicture
) -> None:
    page = open_page("/", visitor)
    form = page.get_by_role("form", name="New task")
    form.get_by_text("Priority, due date, tags").click()
    form.get_by_label("Title").fill("Water the plants")
    form.get_by_label("Tags").fill("x" * 51)
    form.get_by_role("button", name="Add task").click()
    expect(form.get_by_label("Tags")).to_have_attribute("aria-invalid", "true")
    expect(form.get_by_label("Tags")).to_be_focused()
    expect(form.locator("#fault-tags")).to_contain_text("50")
    take_picture(page, "wrong-field")
    form.get_by_label("Tags").fill("home")
    form.get_by_role("button", name="Add task").click()
    expect(row(page, "Water the plants")).to_contain_text("home")


def test_a_limit_is_said_with_the_time_to_wait(example: Example, open_page: OpenPage, visitor: Person) -> None:
    example.add_task(visitor, "Water the plants")
    page = open_page("/", visitor)
    wait_until_live(page)
    usual = dict(example.settings)
    limits: dict[str, Any] = {"rate_limit_enabled": "true", "rate_limit_user": "1/hour"}
    example.kill_duly()
    example.settings |= limits
    example.start_duly()
    try:
        example.api(visitor, "GET", "/tasks")
        is_completed(page, "Water the plants").click()
        expect(fault(page, "Too many requests. Try again in ")).to_be_visible()
        expect(is_completed(page, "Water the plants")).not_to_be_checked()
    finally:
        example.kill_duly()
        example.settings = usual
        example.start_duly()
