"""The example app with HS256 tokens of the shared secret, and what becomes of tokens that do not count any more."""

import json
import re
import time

import jwt
import pytest
from playwright.sync_api import Response, Route, expect

from tests.browser.app import SECRET, Example, Person
from tests.browser.steps import OpenPage, add_task, row, title_field, wait_until_live

pytest_plugins = ("tests.browser.fixtures",)
TOKENS = "hs256"


@pytest.mark.covers("C040", "E042", "E098", "E114")
def test_the_shared_secret_alone_is_enough(example: Example, open_page: OpenPage, visitor: Person) -> None:
    header = jwt.get_unverified_header(example.token(visitor))
    page = open_page("/", visitor)
    wait_until_live(page)
    add_task(page, "Water the plants")
    page.reload()
    expect(row(page, "Water the plants")).to_be_visible()
    assert header["alg"] == "HS256"


@pytest.mark.covers("A136", "E115")
def test_an_expired_token_is_renewed_without_a_word(example: Example, open_page: OpenPage, visitor: Person) -> None:
    user_id = jwt.decode(example.token(visitor), options={"verify_signature": False})["sub"]
    long_ago = int(time.time()) - 3600
    expired = jwt.encode({"sub": user_id, "iat": long_ago - 900, "exp": long_ago}, SECRET, "HS256")
    page = open_page(None, visitor)
    given: list[str] = []
    refused: list[str] = []

    def give(route: Route) -> None:
        given.append("fresh" if given else "expired")
        if given[-1] == "expired":
            route.fulfill(body=json.dumps({"token": expired, "userId": user_id}), content_type="application/json")
        else:
            route.continue_()

    def note(response: Response) -> None:
        if response.status == 401:
            refused.append(response.url)

    page.route("**/api/token", give)
    page.on("response", note)
    page.goto("/")
    wait_until_live(page)
    add_task(page, "Water the plants")
    assert given[0] == "expired"
    assert refused
    assert all(url.startswith(example.duly_url) for url in refused)
    expect(page).to_have_url(f"{example.app_url}/")
    expect(page.get_by_role("alert").filter(has_text=re.compile("."))).to_have_count(0)


@pytest.mark.covers("A136", "E115")
def test_who_is_signed_out_is_asked_to_sign_in_and_comes_back(
    example: Example, open_page: OpenPage, visitor: Person
) -> None:
    task = example.add_task(visitor, "Water the plants")
    page = open_page(f"/tasks/{task['id']}", visitor)
    wait_until_live(page)
    usual = dict(example.settings)
    page.context.clear_cookies()
    example.kill_duly()
    example.settings["better_auth_secret"] = SECRET[::-1]  # no token of before counts
    example.start_duly()
    try:
        expect(page).to_have_url(re.compile(f"/sign-in\\?next=%2Ftasks%2F{task['id']}"))
    finally:
        example.kill_duly()
        example.settings = usual
        example.start_duly()
    page.context.add_cookies(visitor.cookies)
    page.reload()
    expect(title_field(page)).to_have_value("Water the plants")


def test_a_window_of_somebody_else_does_not_go_on_as_before(
    example: Example, open_page: OpenPage, visitor: Person
) -> None:
    example.add_task(visitor, "Ann's task")
    bob = example.sign_up("Bob")
    example.add_task(bob, "Bob's task")
    page = open_page("/", visitor)
    wait_until_live(page)
    page.context.add_cookies(bob.cookies)
    page.clock.install(time=time.time() + 3600)  # Ann's token has ended, so the page asks for another
    example.kill_duly()
    example.start_duly()
    expect(row(page, "Bob's task")).to_be_visible()
    expect(row(page, "Ann's task")).to_have_count(0)
