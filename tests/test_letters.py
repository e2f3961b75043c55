"""Letters: what each kind says in text and in HTML, and how it becomes a mail."""

import datetime as dt
import email.policy
import re
from email.message import EmailMessage
from email.parser import BytesParser
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from duly.mail import letters
from duly.mail.letters import KINDS, Letter, LetterWriter, to_message

PUBLIC_URL = "https://duly.example"
SENDER = "Duly <tasks@duly.example>"
TOKEN = "qGm5t3Jc0mPp7vTJ0nS3Yw0kq1h0u9x5B2oXfYbQe4I"
LINKS = {"reset_password": "reset-password", "verify_email": "verify-email", "confirm_email": "confirm-email"}
SCRIPT = "<script>alert(1)</script>"


def write(kind: str, *, recipient: str = "ann@example.com", name: str | None = "Ann", **values: Any) -> Letter:
    """One letter, filled as the postman fills its kind."""
    writer = LetterWriter(PUBLIC_URL + "/")
    given: dict[str, Any] = {}
    if kind != "test":
        given = {"at": "2026-11-21 18:00 UTC", "ip_address": "203.0.113.7", "device": "Firefox on Linux"}
    if kind in LINKS:
        given |= {"link": writer.link(LINKS[kind], TOKEN), "hours": 24}
    if kind == "account_locked":
        given["minutes"] = 15
    return writer.write(kind, letter_id="0198-1", recipient=recipient, name=name, **(given | values))


class Page(HTMLParser):
    """What a mail program would meet in the HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += "\n" if tag == "br" else ""
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def links(self) -> list[str]:
        return [value for name, value in self.attributes if name == "href"]


@pytest.mark.covers("D040")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_the_same_in_text_and_in_html(kind: str) -> None:
    letter = write(kind)
    page = Page(letter.html)
    assert 10 < len(letter.subject) < 60 or kind == "test"
    assert letter.text.startswith("Hello Ann,\n\n")
    # The HTML says "use this link" of a button, has no columns, and repeats no address of a link in the prose.
    said = " ".join(page.text.split())
    for paragraph in letter.text.split("\n\n"):
        line = re.sub(
            r"(When|Device):  +", r"\1: ", " ".join(paragraph.split()).replace("open this link", "use this link")
        )
        assert line.split(" it works once:")[0] in said
    assert ("lang", "en") in page.attributes
    assert letter.subject in page.text
    assert "ann@example.com" in letter.text
    assert "ann@example.com" in page.text


@pytest.mark.parametrize("kind", KINDS)
def test_no_line_of_a_text_is_long_and_none_is_left_over(kind: str) -> None:
    text = write(kind, ip_address="2001:db8:1234:5678:9abc:def0:1234:5678").text if kind != "test" else write(kind).text
    assert max(len(line) for line in text.splitlines() if TOKEN not in line) < 78
    assert "\n\n\n" not in text
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert "{" not in text
    assert "None" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_html_loads_nothing_and_runs_nothing(kind: str) -> None:
    page = Page(write(kind).html)
    assert not {"script", "img", "link", "style", "iframe", "object", "form", "svg"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in {"src", "background"}]
    assert "url(" not in write(kind).html
    assert all(link.startswith(PUBLIC_URL) for link in page.links)


@pytest.mark.parametrize("kind", KINDS)
def test_every_address_in_a_mail_is_below_the_public_one(kind: str) -> None:
    letter = write(kind)
    for form in (letter.text, letter.html):
        found = re.findall(r"https?://[^\s\"<]+", form)
        assert found
        assert all(url == PUBLIC_URL or url.startswith(f"{PUBLIC_URL}/") for url in found)


@pytest.mark.covers("D040")
@pytest.mark.parametrize("kind", LINKS)
def test_a_link_is_in_the_text_below_the_button_and_behind_it(kind: str) -> None:
    letter = write(kind)
    link = f"{PUBLIC_URL}/{LINKS[kind]}?token={TOKEN}"
    page = Page(letter.html)
    assert link in letter.text.splitlines()
    assert page.links.count(link) == 2
    assert link in page.text


@pytest.mark.parametrize("kind", LINKS)
def test_hours_agree_with_their_number(kind: str) -> None:
    for hours, words in ((1, "1 hour"), (24, "24 hours")):
        letter = write(kind, hours=hours)
        for form in (letter.text, Page(letter.html).text):
            assert re.search(rf"within {words};", " ".join(form.split()))


def test_a_lock_says_how_long_it_lasts() -> None:
    assert "15 minutes." in write("account_locked").text
    assert "1 minute." in write("account_locked", minutes=1).text


@pytest.mark.covers("D040")
@pytest.mark.parametrize("kind", KINDS)
def test_what_people_wrote_is_text_and_never_markup(kind: str) -> None:
    values: dict[str, Any] = {} if kind == "test" else {"device": f"d{SCRIPT}"}
    letter = write(kind, name=SCRIPT, recipient='"><b>"@example.com', **values)
    page = Page(letter.html)
    assert not {"script", "b"} & set(page.tags)
    assert f"Hello {SCRIPT}," in page.text
    assert f"Hello {SCRIPT}," in letter.text  # a text is not escaped
    assert kind == "test" or f"d{SCRIPT}" in page.text


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"test"}))
def test_what_is_not_known_is_left_out(kind: str) -> None:
    letter = write(kind, name=None, ip_address=None, device=None)
    for form in (letter.text, letter.html):
        assert "Hello," in form
        assert "2026-11-21 18:00 UTC" in form
        assert not re.search("None|IP address|Device:", form)


def test_a_value_that_is_missing_is_never_sent_as_nothing() -> None:
    with pytest.raises(UndefinedError, match="link"):
        LetterWriter(PUBLIC_URL).write("reset_password", letter_id="1", recipient="a@b.example", name=None, hours=1)


@pytest.mark.parametrize(
    "name",
    ["Win at https://evil.example/x", "visit evil.example", "www evil", "me@evil.example", "evil。example", "x" * 61,
     "Ann\nYou won", "Ann\u2028You won", "Ann\u202egnp.exe", ""],
)  # fmt: skip
def test_a_name_that_would_be_a_link_or_a_second_line_is_not_greeted(name: str) -> None:
    letter = write("verify_email", name=name)
    assert letter.text.startswith("Hello,\n\n")
    assert "<p>Hello,</p>" in letter.html


@pytest.mark.parametrize("name", ["J. R. R. Tolkien", "J.R.R. Tolkien", "Zoë O’Neill-Šimić", "山田 太郎", "Dr. No"])
def test_an_ordinary_name_is_greeted(name: str) -> None:
    assert write("verify_email", name=name).text.startswith(f"Hello {name},\n")


# The message


def parsed(message: EmailMessage) -> EmailMessage:
    """As the other end reads it."""
    read = BytesParser(policy=email.policy.default).parsebytes(message.as_bytes())
    assert isinstance(read, EmailMessage)
    return read


def body(message: EmailMessage, subtype: str) -> str:
    part = message.get_body((subtype,))
    assert part is not None
    assert part.get_content_charset() == "utf-8"
    return str(part.get_content()).replace("\r\n", "\n")


def test_a_message_has_both_forms_in_utf_8_and_the_headers_that_mail_wants() -> None:
    letter = write("reset_password", name="Zoë 山田")
    message = parsed(to_message(letter, '"Düly, Inc." <tasks@duly.example>'))
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert body(message, "plain") == letter.text
    assert body(message, "html") == letter.html
    assert message["Message-ID"] == "<0198-1@duly.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Subject"] == "Reset your password"
    assert message["From"].addresses[0].display_name == "Düly, Inc."
    assert [address.addr_spec for address in message["From"].addresses] == ["tasks@duly.example"]
    assert abs(message["Date"].datetime - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=5)
    short = write("test", name="Zoë")  # its text has no line so long that it is encoded for that
    assert to_message(short, SENDER).as_bytes().isascii()


@pytest.mark.parametrize(
    "recipient",
    ["ann@example.com\r\nBcc: eve@example.com", "ann\nBcc: x@example.com", "ann@example.com\r", "ann@example.com\n",
     "", "ann", "ann@", "@example.com"],
)  # fmt: skip
def test_a_recipient_that_is_no_address_makes_no_mail(recipient: str) -> None:
    letter = Letter("1", recipient, "Hello", "text\n", "<p>")
    with pytest.raises(ValueError, match="address"):
        to_message(letter, SENDER)


@pytest.mark.parametrize("subject", ["Hi\r\nBcc: eve@example.com", "Hi\nthere", "Hi\r", "Hi\0"])
def test_a_line_break_in_a_subject_makes_no_mail(subject: str) -> None:
    with pytest.raises(ValueError, match="a subject is one line"):
        to_message(Letter("1", "ann@example.com", subject, "text\n", "<p>"), SENDER)


def test_two_addresses_in_one_recipient_are_not_two_recipients() -> None:
    message = parsed(to_message(write("test", recipient="ann@example.com, eve@example.com"), SENDER))
    assert len(message["To"].addresses) == 1


def test_the_templates_are_those_of_the_kinds() -> None:
    folder = Path(letters.__file__).parent / "templates"
    parts = {"base.html", "parts.html", "facts.html", "facts.txt", "end.txt"}
    assert {path.name for path in folder.iterdir()} == parts | {
        f"{kind}.{form}" for kind in KINDS for form in ("txt", "html")
    }


@pytest.mark.parametrize("kind", LINKS)
def test_a_link_is_whole_in_the_source_of_the_mail(kind: str) -> None:
    letter = write(kind)
    source = bytes(to_message(letter, SENDER))
    assert source.count(f"{PUBLIC_URL}/{LINKS[kind]}?token={TOKEN}".encode()) >= 2
