"""Plain pages for the links in mails, so that recovery works in a browser before any frontend exists."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from duly.web.docs_pages import Assets, Files, fill, prefix_of
from duly.web.headers import ACCOUNT_CSP

_OWN = files("duly.web") / "assets"
_FILES: Files = {
    "account.js": (_OWN / "account.js", "text/javascript; charset=utf-8"),
    "account.css": (_OWN / "account.css", "text/css; charset=utf-8"),
}

# The form stays hidden until the script runs: without it a browser would send the password as a form does.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>{heading} · {title}</title>
<link rel="stylesheet" href="{account.css}">
<script src="{account.js}" defer></script>
</head>
<body>
<main>
<p class="brand"><svg viewBox="0 0 32 32" width="32" height="32" aria-hidden="true" focusable="false">\
<rect width="32" height="32" rx="7"/><path d="M8 17l5.5 5.5L24 11"/></svg>{title}</p>
<h1>{heading}</h1>
<div id="result" role="status" aria-live="polite" tabindex="-1"></div>
<noscript><p class="note">This page needs JavaScript. Allow it for this address, then open the link in the mail \
again.</p></noscript>
<form id="form" method="post" data-endpoint="{endpoint}" data-done="{done}" novalidate hidden>
<p>{introduction}</p>
{fields}
<button type="submit">{button}</button>
</form>
</main>
</body>
</html>
"""
_TWO_FIELDS = """<div class="field">
<label for="password">New password</label>
<input id="password" name="new_password" type="password" autocomplete="new-password" autocapitalize="none" \
spellcheck="false" required data-least="{least}" aria-describedby="password-hint password-fault">
<p class="hint" id="password-hint">At least {least} characters. Several words that do not belong together are good.</p>
<p class="fault" id="password-fault"></p>
</div>
<div class="field">
<label for="again">New password, once more</label>
<input id="again" type="password" autocomplete="new-password" autocapitalize="none" spellcheck="false" required \
aria-describedby="again-fault">
<p class="fault" id="again-fault"></p>
</div>
<label class="choice"><input id="show" type="checkbox" autocomplete="off"> Show what I type</label>"""


@dataclass(frozen=True, slots=True)
class _Words:
    """What one page says. Its path is also the last part of the address that it posts to."""

    path: str
    heading: str
    introduction: str
    button: str
    done: str
    fields: str = ""


_PAGES = (
    _Words(
        "/reset-password",
        "Choose a new password",
        "It replaces the old one. Wherever you are signed in, you will be signed out.",
        "Set the new password",
        "Your password has been changed. Sign in with the new one.",
        _TWO_FIELDS,
    ),
    _Words(
        "/verify-email",
        "Confirm your address",
        "Confirm that the address to which the mail came is yours.",
        "Confirm",
        "Your address is confirmed. You can close this page.",
    ),
    _Words(
        "/confirm-email",
        "Confirm your new address",
        "The address to which the mail came replaces the one that your account has now.",
        "Confirm",
        "Your new address is confirmed. Use it to sign in from now on.",
    ),
)


def account_routes(*, least_password: int = 8, api: str = "/api/v1/auth", title: str = "Duly") -> list[BaseRoute]:
    """Routes for /reset-password, /verify-email, /confirm-email and their files under /account/assets/.

    A GET changes nothing, because mail scanners follow links, and reads no query: the token goes from the address bar
    into the script, and from there into the body of one POST to the path of the same name below `api`.
    `least_password` is in characters. Addresses in the pages begin with the ASGI `root_path`.
    """
    assets = Assets("/account/assets", _FILES)

    def page(words: _Words) -> Callable[[Request], Awaitable[Response]]:
        template = _PAGE.replace("{fields}", words.fields)

        async def show(request: Request) -> Response:
            prefix = prefix_of(request)
            values = await assets.addresses(prefix)
            values |= {
                "title": title, "heading": words.heading, "introduction": words.introduction, "button": words.button,
                "done": words.done, "endpoint": f"{prefix}{api}{words.path}", "least": str(least_password),
            }  # fmt: skip
            headers = {"content-security-policy": ACCOUNT_CSP.decode("ascii"), "cache-control": "no-store"}
            return HTMLResponse(fill(template, values), headers=headers)

        return show

    return [*(Route(words.path, page(words), include_in_schema=False) for words in _PAGES), assets.route()]
