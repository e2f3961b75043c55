"""Proof, before any load, that a server really does the work that is measured."""

import random
from typing import Any

from bench.client import Client
from bench.failure import BenchError
from bench.servers import Server
from bench.workload import Call, Pair, fill

SAMPLE = 10
PAGE = 20
REFUSALS = (401, 403, 404)


def check_answers(server: Server, pairs: list[Pair]) -> None:
    """Send each call for a few pairs and look into the answers; BenchError at the first that is wrong."""
    with Client(server.port) as client:
        for number, pair in enumerate(random.sample(pairs, min(SAMPLE, len(pairs)))):
            answers = {name: send(client, call, pair, number) for name, call in server.calls.items()}
            if server.checks_owner:
                check_data(server, pair, answers)
                created = Pair(pair.token, answers["W1"]["id"], pair.user_id)
                send(client, server.calls["R1"], created, number)
                check_foreign(client, server.calls["R1"], pair, pairs)


def send(client: Client, call: Call, pair: Pair, number: int) -> Any:
    """The JSON that answers a call."""
    path, body = fill(call.path, pair, number), fill(call.body, pair, number)
    return client.expect(call.method, path, token=pair.token, body=body)


def check_data(server: Server, pair: Pair, answers: dict[str, Any]) -> None:
    """R1 is the task asked for; R2 is a full page, newest first."""
    if answers["R1"]["id"] != pair.task_id:
        raise BenchError(f"R1 answered another task: {answers['R1']}")
    items = answers["R2"] if isinstance(answers["R2"], list) else answers["R2"]["items"]
    times = [item.get("created_at") or item["created"] for item in items]
    if len(items) < min(PAGE, server.bench.scale.tasks) or times != sorted(times, reverse=True):
        raise BenchError(f"R2 is not the {PAGE} newest: {len(items)} tasks, made at {times}")


def check_foreign(client: Client, call: Call, pair: Pair, pairs: list[Pair]) -> None:
    """Another user's token reads nothing, and neither does none at all."""
    foreign = [p.token for p in pairs if p.user_id != pair.user_id][:1]
    for token in [*foreign, ""]:
        status, _ = client.send(call.method, fill(call.path, pair, 0), token=token)
        if status not in REFUSALS:
            raise BenchError(f"a task is answered {status} to someone who may not see it")
