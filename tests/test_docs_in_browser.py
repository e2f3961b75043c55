"""The documentation pages of a running server, used in a real browser as a developer uses them."""

import json
import time
from typing import Any

import httpx
import pytest

from tests.fixtures.application import PASSWORD
from tests.fixtures.server import Server, StartServer
from tests.fixtures.tab import Tab

PATIENCE = 60.0
# A field of React takes a value only with the event that typing brings.
TYPE = """(() => {
  const field = document.querySelector(%s);
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(field, %s);
  field.dispatchEvent(new Event("input", {bubbles: true}));
  field.dispatchEvent(new Event("change", {bubbles: true}));
})()"""


class Developer:
    """Somebody at a documentation page, who finds things by what they show."""

    def __init__(self, tab: Tab, server: Server) -> None:
        self.tab = tab
        self.server = server

    def open(self, path: str) -> None:
        self.tab.call("Page.navigate", url=self.server.base_url + path)
        self.tab.wait(f"location.pathname === {json.dumps(path)} && document.readyState === 'complete'")

    def sees(self, selector: str, holding: str = "") -> str:
        """The text of the first such element that is shown and holds this, once there is one."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        shown = f"element => element.checkVisibility() && element.innerText.includes({json.dumps(holding)})"
        return str(self.tab.wait(f"{found}.find({shown})?.innerText"))

    def press(self, selector: str) -> None:
        self.tab.wait(f"Boolean(document.querySelector({json.dumps(selector)}))")
        self.tab.run(f"document.querySelector({json.dumps(selector)}).click()")

    def type(self, selector: str, text: str) -> None:
        self.tab.wait(f"Boolean(document.querySelector({json.dumps(selector)}))")
        self.tab.run(TYPE % (json.dumps(selector), json.dumps(text)))

    def try_out(self, method: str, path: str, status: int) -> str:
        """Open an operation, execute it as it stands, and read the answer of this status that the page shows."""
        self.press(f".opblock-{method} .opblock-summary-path[data-path='{path}']")
        if method == "post":
            # The example is shown before it is what Execute would send; until then a press only marks it as missing.
            self.tab.wait(f"Boolean(ui.oas3Selectors.requestBodyValue({json.dumps(path)}, {json.dumps(method)}))")
        self.press(f".opblock-{method}.is-open .execute")
        answer = self.sees(f".opblock-{method}.is-open .live-responses-table .response", f"{status}\t")
        self.press(f".opblock-{method}.is-open .opblock-summary-control")
        return answer

    def refusal(self) -> str:
        """The one complaint about an answer, which the browser writes in its own time."""
        deadline = time.monotonic() + PATIENCE
        while not self.tab.complaints:
            assert time.monotonic() < deadline
            self.tab.run("new Promise(resolve => setTimeout(resolve, 50))")
        [complaint], self.tab.complaints = self.tab.complaints, []
        return complaint

    def assert_undisturbed(self) -> None:
        """Nothing was refused by the page's policy, nothing failed, and no other host was asked for anything."""
        assert self.tab.complaints == []
        asked = [request.partition(" ")[2] for request in self.tab.requests]
        assert [url for url in asked if not url.startswith((f"{self.server.base_url}/", "data:", "blob:"))] == []


@pytest.fixture
def developer(tab: Tab, start_server: StartServer) -> Developer:
    """With an account, at a server as it ships."""
    return Developer(tab, start_server())


@pytest.fixture
def account(developer: Developer) -> dict[str, Any]:
    body = {"email": "ann@example.com", "password": PASSWORD}
    answer = httpx.post(f"{developer.server.base_url}/api/v1/auth/register", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.covers("E099", "D086", "E088")
def test_authorize_signs_in_and_try_it_out_calls(developer: Developer, account: dict[str, Any]) -> None:
    developer.open("/docs")
    assert "NOT_AUTHENTICATED" in developer.try_out("get", "/api/v1/tasks", 401)
    assert "status of 401" in developer.refusal()
    developer.press(".btn.authorize")
    developer.type("#oauth_username", account["user"]["email"])
    developer.type("#oauth_password", PASSWORD)
    developer.press("[aria-label='Apply given OAuth2 credentials']")
    assert "username: ann@example.com" in developer.sees(".auth-container", "Authorized")
    developer.press(".close-modal")
    assert '"title": "Water the plants"' in developer.try_out("post", "/api/v1/tasks", 201)
    assert '"total": 1' in developer.try_out("get", "/api/v1/tasks", 200)
    assert f"POST {developer.server.base_url}/api/v1/auth/login" in developer.tab.requests
    developer.assert_undisturbed()
    assert (
        developer.tab.run("JSON.stringify([localStorage.length, sessionStorage.length, document.cookie])") == '[0,0,""]'
    )


@pytest.mark.covers("E099", "D086")
def test_a_wrong_password_is_told_and_a_token_from_elsewhere_can_be_pasted(
    developer: Developer, account: dict[str, Any]
) -> None:
    developer.open("/docs")
    developer.press(".btn.authorize")
    developer.type("#oauth_username", account["user"]["email"])
    developer.type("#oauth_password", "wrong")
    developer.press("[aria-label='Apply given OAuth2 credentials']")
    developer.sees(".auth-container .errors", "Auth Error")
    assert "status of 401" in developer.refusal()
    # A form, which the policy forbids to send anywhere: the page has to take the value itself.
    developer.type("#auth-bearer-value", account["access_token"])
    developer.press("form:has(#auth-bearer-value) .authorize")
    developer.sees(".auth-container", "Authorized")
    developer.press(".close-modal")
    assert '"email": "ann@example.com"' in developer.try_out("get", "/api/v1/auth/me", 200)
    developer.assert_undisturbed()


@pytest.mark.covers("E099", "D086", "E089")
def test_redoc_shows_every_operation_and_finds_them(developer: Developer) -> None:
    document = httpx.get(f"{developer.server.base_url}/openapi.json", timeout=60, trust_env=False).json()
    named = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    developer.open("/redoc")
    assert developer.sees("#redoc h1").startswith("Duly")
    shown = "[...document.querySelectorAll('[id*=\"operation/\"]')].map(element => element.id.split('/').pop())"
    developer.tab.wait(f"{shown}.length >= {len(named)}")
    assert set(developer.tab.run(shown)) == named
    # The index is made by a worker, which the policy has to admit; what is typed before it is there finds nothing.
    search = "document.querySelector('[role=search]').innerText"
    deadline = time.monotonic() + PATIENCE
    while "Take a task out of the trash" not in developer.tab.run(search):
        assert time.monotonic() < deadline
        developer.type("input[aria-label=Search]", "")
        developer.type("input[aria-label=Search]", "restore")
        developer.tab.run("new Promise(resolve => setTimeout(resolve, 1000))")
    developer.assert_undisturbed()
