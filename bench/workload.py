"""What is asked of every server: the three calls, the task they write, and the pairs they cycle over."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WORKLOADS: Mapping[str, str] = {
    "R1": "GET one task by id",
    "R2": "GET the 20 newest tasks",
    "W1": "POST one task",
}
PAIR_COUNT = 4_000
PRIORITIES = ("low", "medium", "high", "urgent")


@dataclass(frozen=True)
class Scale:
    """How much data a server holds before the first measured request."""

    users: int
    tasks: int


@dataclass(frozen=True)
class Pair:
    """A bearer token and a task its owner may read."""

    token: str
    task_id: str
    user_id: str


@dataclass(frozen=True)
class Call:
    """One HTTP request; `{id}`, `{user}` and `{n}` in path and body stand for the pair's values and a counter."""

    method: str
    path: str
    body: str = ""


def task_fields(number: int | str) -> dict[str, str]:
    """The four fields a client sends for a new task."""
    priority = PRIORITIES[number % len(PRIORITIES)] if isinstance(number, int) else "high"
    return {
        "title": f"Prepare the quarterly report, part {number}",
        "description": "Collect the figures of the last three months, check them with the team and write them up.",
        "priority": priority,
        "due_date": "2027-03-01T09:00:00Z",
    }


def create_body(**more: str) -> str:
    """The JSON body of W1 as a template; `more` are fields that only one server needs."""
    return json.dumps(task_fields("{n}") | more)


def fill(template: str, pair: Pair, number: int) -> str:
    """Put a pair's values into a template. Not str.format: JSON bodies are full of braces."""
    return template.replace("{id}", pair.task_id).replace("{user}", pair.user_id).replace("{n}", str(number))


def write_pairs(pairs: list[Pair], path: Path) -> None:
    """Write the file that cycle.lua reads: token, task id and user id, tab-separated, one pair a line."""
    path.write_text("".join(f"{p.token}\t{p.task_id}\t{p.user_id}\n" for p in pairs))


def read_pairs(text: str) -> list[Pair]:
    """Parse what `write_pairs` wrote."""
    return [Pair(*line.split("\t")) for line in text.splitlines() if line]
