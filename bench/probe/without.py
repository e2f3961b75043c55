"""Takes one trick or one service of Duly away, in a server that is measured beside one that has it."""

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

MANY = 1_000_000


def _replace(module: str, name: str, value: Any) -> None:
    """Put `value` where `Class.method` or a name of the module stands."""
    owner: Any = importlib.import_module(module)
    *parents, last = name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, last, value)


async def _pass_on(self: Any, scope: Any, receive: Any, send: Any) -> None:
    await self._app(scope, receive, send)


def _check_again() -> None:
    from duly.web.guard import Guard

    recall = Guard.recall

    def recall_checked(self: Guard, header: bytes | None, scope: Any) -> Any:
        if header is not None and self._access is not None:
            self._access.read(header[7:].decode("latin-1"))
        return recall(self, header, scope)

    _replace("duly.web.guard", "Guard.recall", recall_checked)


async def _alone(self: Any, values: dict[str, Any]) -> Any:
    since = monotonic()
    if self._ready is None:
        rows = await self._run(self._statement, values, since)
    else:
        async with self._ready(since):
            rows = await self._run(self._statement, values, since)
    return rows[0] if rows else None


def _without_runtime() -> None:
    _replace("sys", "setswitchinterval", lambda _: None)
    _replace("gc", "freeze", lambda: None)
    _replace("gc", "set_threshold", lambda *_: None)


def _without_figures() -> None:
    from duly.web.door import Door

    build = Door.__init__

    def build_uncounted(self: Door, *given: Any, **options: Any) -> None:
        build(self, *given, **(options | {"count": lambda *_: None}))

    _replace("duly.web.door", "Door.__init__", build_uncounted)


def _show_target(_log: Any, _request_id: str, method: str, path: str) -> str:
    return f"{method} {path}"


def _keep(headers: Iterable[tuple[bytes, bytes]], _scheme: str) -> list[tuple[bytes, bytes]]:
    return [*headers]


def _in_two_pieces() -> None:
    _replace("duly.cli.connections", "WHOLE", "none")
    _replace("duly.cli.cycles", "Cycle._has_body", lambda *_: False)


def _without_log() -> None:
    _replace("duly.web.access_log", "JsonAccessLog.incoming", _show_target)
    _replace("duly.web.access_log", "JsonAccessLog.completed", lambda *_: None)


TRICKS: Mapping[str, Callable[[], None]] = {
    "lane": lambda: _replace("duly.web.lane", "Lane.__call__", _pass_on),
    "verified": _check_again,
    "batches": lambda: _replace("duly.db.batches", "Batches.first", _alone),
    "whole": _in_two_pieces,
    "turns": lambda: _replace("duly.web.turns", "LONGEST", math.inf),
    "answers": lambda: _replace("duly.db.answers", "AT_ONCE", MANY),
    "runtime": _without_runtime,
}
SERVICES: Mapping[str, Callable[[], None]] = {
    "log": _without_log,
    "figures": _without_figures,
    "headers": lambda: _replace("duly.web.door", "add_security", _keep),
}


def take_away(name: str) -> None:
    """Change the classes before the server makes objects of them; KeyError for a name that is none."""
    for part in TRICKS if name == "tricks" else (name,):
        ({**TRICKS, **SERVICES})[part]()
