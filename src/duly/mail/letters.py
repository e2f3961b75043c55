"""What a mail says: subject, text and HTML from templates, to one address."""

import re
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Any

from email_validator import validate_email
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from duly.kit.clock import now

KINDS = (
    "reset_password", "verify_email", "confirm_email", "email_changed", "password_changed", "new_device",
    "account_locked", "already_registered", "test",
)  # fmt: skip
LONGEST_GREETED = 60
# What a mail program turns into a link.
LINKED = re.compile(r"://|@|\bwww\b|\w[.\u3002\uff0e\uff61]\w{2,}")


@dataclass(frozen=True, slots=True)
class Letter:
    """One mail, ready to be sent. `id` is the same for each attempt, so that a second copy can be known as one."""

    id: str
    recipient: str
    subject: str
    text: str
    html: str


class LetterWriter:
    """Fills the templates `<kind>.txt`, whose first line is the subject, and `<kind>.html`, where text is escaped."""

    def __init__(self, public_url: str) -> None:
        self._public_url = public_url.rstrip("/")
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )

    def write(self, kind: str, *, letter_id: str, recipient: str, name: str | None, **values: Any) -> Letter:
        """`kind` is one of `KINDS`; a template fails loudly for a value that it lacks."""
        given = {"public_url": self._public_url, "recipient": recipient, "greeting": greet(name), **values}
        text = self._templates.get_template(f"{kind}.txt").render(given)
        subject, _, body = text.partition("\n")
        html = self._templates.get_template(f"{kind}.html").render(given, subject=subject)
        return Letter(letter_id, recipient, subject.strip(), body.lstrip("\n"), html)

    def link(self, page: str, token: str) -> str:
        """An address below `PUBLIC_URL`, whatever host the request named."""
        return f"{self._public_url}/{page}?token={token}"


def greet(name: str | None) -> str:
    """The first line of a mail. Whoever registers with somebody else's address chooses the name, so one that is long,
    or would become a link, is left out.
    """  # noqa: D205 - what it is, and the rule
    if not name or len(name) > LONGEST_GREETED or not name.isprintable() or LINKED.search(name):
        return "Hello,"
    return f"Hello {name},"


def read_sender(text: str) -> Address:
    """`Duly <tasks@example.com>` or the address alone. Raises ValueError."""
    name, address = parseaddr(text)
    return _address(address, name)


def to_message(letter: Letter, sender: str) -> EmailMessage:
    """RFC 5322, with both forms of the body (RFC 2046 §5.1.4). Raises ValueError for a line break in a header."""
    if not letter.subject.isprintable():
        raise ValueError("a subject is one line")
    origin, recipient = read_sender(sender), _address(letter.recipient)
    is_ascii = f"{origin.addr_spec}{recipient.addr_spec}".isascii()
    # The body is ASCII on its way, so that no server has to recode what was signed (RFC 6376 §5.3).
    message = EmailMessage(policy=(SMTP if is_ascii else SMTPUTF8).clone(cte_type="7bit"))
    message["From"] = origin
    message["To"] = recipient
    message["Subject"] = letter.subject
    message["Date"] = format_datetime(now())
    message["Message-ID"] = f"<{letter.id}@{origin.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834 §5: no vacation notice answers
    message.set_content(letter.text, cte=_encoding(letter.text))
    message.add_alternative(letter.html, subtype="html", cte=_encoding(letter.html))
    return message


def _encoding(text: str) -> str:
    # Left to itself a long line, which a link makes, is folded as quoted-printable, and whoever reads the mail's source
    # copies half a link. A line may have 998 characters (RFC 5322 §2.1.1).
    is_plain = text.isascii() and all(len(line) <= 998 for line in text.splitlines())
    return "7bit" if is_plain else "quoted-printable"


def _address(address: str, name: str = "") -> Address:
    """One mailbox, whatever is in the text. A domain is written in ASCII, which every server takes (RFC 5891)."""
    local, _, domain = address.rpartition("@")
    if not local or not domain:
        raise ValueError("this is not an address")
    if not domain.isascii():
        domain = validate_email(
            f"x@{domain}", check_deliverability=False, globally_deliverable=False, test_environment=True
        ).ascii_domain
    return Address(name, local, domain)
