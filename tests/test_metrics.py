"""/metrics: what it says, and who may read it."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

from duly import __version__
from duly.settings import SettingsFault, load_settings
from tests.fixtures.application import Api, StartApp
from tests.fixtures.server import StartServer
from tests.live_clients import events, register, socket

TOKEN = "0Q4mJm5pYkXw1sVYbD7cHn2eGt8RzLuA"
once = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


def read(text: str) -> dict[str, float]:
    """Every sample; a label stands in brackets."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = "".join(f"[{value}]" for value in sample.labels.values())
            found[sample.name + labels] = sample.value
    return found


def series(text: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of this name by the values of their labels, which come in the order of their names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


async def requests(api: Api, name: str = "duly_http_requests_total") -> dict[tuple[str, ...], float]:
    return series((await api.client.get("/metrics")).text, name)


async def figures(api: Api) -> dict[str, float]:
    response = await api.client.get("/metrics")
    assert response.status_code == 200, response.text
    return read(response.text)


def from_address(api: Api, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(api.app, raise_app_exceptions=False, client=(address, 50000))
    return httpx.AsyncClient(transport=transport, base_url="http://testserver", trust_env=False)


async def status(api: Api, address: str, **headers: str) -> int:
    async with from_address(api, address) as client:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await client.get("/metrics", headers=sent)).status_code


@pytest.mark.covers("A073")
async def test_the_hits_rise_with_a_repeated_read(api: Api) -> None:
    ann = await api.register()
    before = await figures(api)
    hit, miss = "duly_cache_hits_total[process]", "duly_cache_misses_total[process]"
    assert {hit, miss, "duly_cache_hits_total[redis]", "duly_cache_misses_total[redis]"} <= before.keys()
    await ann.get("/tasks/stats")
    first = await figures(api)
    assert (first[hit] - before[hit], first[miss] - before[miss]) == (0, 1)
    for _ in range(3):
        await ann.get("/tasks/stats")
    second = await figures(api)
    assert (second[hit] - first[hit], second[miss] - first[miss]) == (3, 0)
    await ann.add_task("Changed")
    await ann.get("/tasks/stats")
    assert (await figures(api))[miss] == second[miss] + 1


@once
@pytest.mark.covers("A063", "B080")
async def test_it_is_text_for_prometheus_and_says_what_runs(api: Api) -> None:
    response = await api.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert response.headers["cache-control"] == "no-store"
    assert f'duly_build_info{{version="{__version__}"}} 1.0' in response.text
    found = read(response.text)
    assert found["process_resident_memory_bytes"] > 0
    assert (await api.client.head("/metrics")).status_code == 200


@once
async def test_each_application_has_figures_of_its_own_and_takes_further_ones(start_app: StartApp) -> None:
    first, second = await start_app(), await start_app()
    first.app.state.services.metrics.add(lambda: [GaugeMetricFamily("duly_test_streams", "Open.", 7)])
    assert (await figures(first))["duly_test_streams"] == 7
    assert "duly_test_streams" not in await figures(second)


@once
async def test_without_a_token_this_machine_alone_may_read(start_app: StartApp) -> None:
    api = await start_app()
    for address in ("127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"):
        assert await status(api, address) == 200, address
    for address in ("203.0.113.9", "10.0.0.1", "2001:db8::1", "::", "unknown", ""):
        assert await status(api, address) == 403, address
    async with from_address(api, "203.0.113.9") as client:
        refused = await client.get("/metrics", headers={"Authorization": "Bearer anything"})
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["code"] == "FORBIDDEN"


@once
async def test_what_a_proxy_on_this_machine_passes_on_is_not_from_this_machine(start_app: StartApp) -> None:
    for proxies in ((), ("127.0.0.1",), ("10.0.0.0/8",)):
        api = await start_app(trusted_proxies=proxies)
        assert await status(api, "127.0.0.1") == 200
        for headers in (
            {"X_Forwarded_For": "203.0.113.9"}, {"X_Forwarded_For": "127.0.0.1"}, {"X_Forwarded_For": ""},
            {"X_Forwarded_Proto": "https"}, {"Forwarded": "for=203.0.113.9"}, {"X_Real_IP": "203.0.113.9"},
            {"Via": "1.1 proxy"}, {"X_Forwarded_Host": "tasks.example.com"},
        ):  # fmt: skip
            assert await status(api, "127.0.0.1", **headers) == 403, (proxies, headers)


@once
async def test_with_a_token_whoever_has_it_may_read_and_nobody_else(start_app: StartApp) -> None:
    api = await start_app(metrics_token=TOKEN)
    ann = await api.register()
    for address in ("127.0.0.1", "203.0.113.9"):
        assert await status(api, address, Authorization=f"Bearer {TOKEN}") == 200
        assert await status(api, address, Authorization=f"bearer  {TOKEN}", X_Forwarded_For="198.51.100.7") == 200
        for wrong in (TOKEN[:-1], TOKEN + "x", TOKEN.lower(), "", ann.access_token):
            assert await status(api, address, Authorization=f"Bearer {wrong}") == 401
        assert await status(api, address, Authorization=TOKEN) == 401
        assert await status(api, address, Authorization=f"Basic {TOKEN}") == 401
    refused = await api.client.get("/metrics")
    assert refused.headers["www-authenticate"] == 'Bearer realm="duly"'
    assert (refused.status_code, refused.json()["code"]) == (401, "NOT_AUTHENTICATED")
    twice = [("Authorization", f"Bearer {TOKEN}")] * 2
    assert (await api.client.get("/metrics", headers=twice)).status_code == 401


@pytest.mark.parametrize(
    ("environment", "token"), [("development", "short"), ("production", "change-me-" * 5), ("staging", "a" * 40)]
)
def test_a_weak_token_stops_the_start(
    environment: str, token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    good: dict[str, Any] = {"secret_key": TOKEN + "k", "public_url": "https://tasks.example.com"}
    load_settings(environment=environment, metrics_token=TOKEN, **good)
    with pytest.raises(SettingsFault, match="METRICS_TOKEN"):
        load_settings(environment=environment, metrics_token=token, **good)


@once
async def test_it_is_never_turned_away_for_asking_often(start_app: StartApp) -> None:
    api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="2/hour")
    assert [await status(api, "127.0.0.1") for _ in range(6)] == [200] * 6


@once
async def test_open_live_streams_are_counted(api: Api) -> None:
    ann = await api.register()
    services = api.app.state.services
    request = Request({"type": "http", "headers": [(b"authorization", f"Bearer {ann.access_token}".encode())]})
    caller = await services.guard.authenticate(request.scope)
    assert (await figures(api))["duly_live_streams"] == 0
    async with services.streams.open(request, caller, None), services.streams.open(request, caller, None):
        assert (await figures(api))["duly_live_streams"] == 2
    assert (await figures(api))["duly_live_streams"] == 0


TASK = "/api/v1/tasks/{task_id}"
COUNT = "duly_http_request_seconds_count"


@pytest.mark.covers("A063", "A102")
async def test_each_request_is_counted_and_timed_under_its_operation(api: Api) -> None:
    ann = await api.register()
    task = await ann.add_task()
    path = f"/tasks/{task['id']}"
    for _ in range(7):
        await ann.get(path)
    for _ in range(3):
        await ann.get(path, headers={"Origin": "https://app.example.com"})  # past the outer lane
    await ann.patch(path, json={"title": "Other"})
    await ann.get(f"/tasks/{task['user_id']}")
    await ann.request("HEAD", path)
    await ann.client.get(f"/api/v1{path}")  # nobody
    await ann.client.get("/api/v1/tasks/")
    await ann.get(f"{path}/history")
    await ann.client.put("/api/v1/tasks")
    await ann.client.get(f"/api/{ann.user_id}/tasks", headers=ann.headers)
    await ann.client.get("/redoc")
    found = await requests(api)
    timed = await requests(api, COUNT)
    assert found["GET", TASK, "200"] == 10
    assert (found["GET", TASK, "404"], found["GET", TASK, "401"], found["HEAD", TASK, "200"]) == (1, 1, 1)
    assert (found["PATCH", TASK, "200"], found["POST", "/api/v1/tasks", "201"]) == (1, 1)
    assert found["GET", "/api/v1/tasks", "401"] == 1
    assert found["GET", "/api/v1/tasks/{task_id}/history", "200"] == 1
    assert found["PUT", "unmatched", "405"] == 1
    assert found["GET", "/api/{user_id}/tasks", "200"] == 1
    assert found["GET", "/redoc", "200"] == 1
    assert timed["GET", TASK] == 12
    assert timed["GET", "/metrics"] == 1  # the first reading; the second was not over
    inside = (await figures(api))["duly_http_requests_in_flight"]
    assert inside == 1


@once
async def test_the_buckets_hold_every_answer_and_its_time(start_app: StartApp) -> None:
    api = await start_app()
    ann = await api.register()
    text = (await api.client.get("/metrics")).text
    buckets = {le: value for (le, *label), value in series(text, "duly_http_request_seconds_bucket").items()
               if label == ["POST", "/api/v1/auth/register"]}  # fmt: skip
    expected = ["0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0",
                "30.0", "+Inf"]  # fmt: skip
    assert list(buckets) == expected
    # A password was hashed, which takes ten milliseconds at least.
    assert (buckets["0.001"], buckets["+Inf"]) == (0, 1)
    assert list(buckets.values()) == sorted(buckets.values())
    assert series(text, "duly_http_request_seconds_sum")["POST", "/api/v1/auth/register"] > 0.005
    assert ann.user_id


@once
@pytest.mark.covers("A063")
async def test_a_thousand_odd_requests_make_no_more_series(start_app: StartApp) -> None:
    api = await start_app()
    ann = await api.register()
    for number in range(1000):
        method = ("GET", "POST", "BREW", f"M{number}", "TRACE")[number % 5]
        path = (f"/odd/{number}", f"/api/v1/tasks/{number}/x{number}", f"/api/{number}", f"/%ff{number}",
                f"/api/v{number}/tasks", f"/../{number}", f"/api/v1/tasks/stats/{number}")[number % 7]  # fmt: skip
        await api.client.request(method, path, headers=ann.headers)
    found = await requests(api)
    # An owner's id is a template's too, so a few of them are known.
    assert {key[1] for key in found} <= {
        "unmatched", "/metrics", "/api/v1/auth/register", "/api/{user_id}/tasks", "/api/{user_id}/tasks/{task_id}",
    }  # fmt: skip
    assert {key[0] for key in found} == {"GET", "POST", "other"}
    assert sum(found.values()) == 1001
    assert len(found) < 20


@once
async def test_what_the_limits_and_the_door_refuse_is_counted_too(start_app: StartApp) -> None:
    api = await start_app(
        rate_limit_enabled=True, rate_limit_anonymous="2/hour", rate_limit_login="1/hour", allowed_hosts=("testserver",)
    )
    for _ in range(5):
        await api.client.get("/api/v1/tasks/one")
    login = {"email": "ann@example.com", "password": "wrong-orbit-92"}
    for _ in range(3):
        await api.client.post("/api/v1/auth/login", json=login)
    await api.client.get("/api/v1/tasks/one", headers={"Host": "other.example"})
    text = (await api.client.get("/metrics")).text
    found = series(text, "duly_http_requests_total")
    assert (found["GET", TASK, "401"], found["GET", TASK, "429"], found["GET", TASK, "400"]) == (2, 3, 1)
    assert (found["POST", "/api/v1/auth/login", "401"], found["POST", "/api/v1/auth/login", "429"]) == (1, 2)
    assert series(text, COUNT)["GET", TASK] == 6
    refused = series(text, "duly_rate_limited_total")
    assert (refused["anonymous",], refused["login",], refused["user",]) == (3, 2, 0)


@once
async def test_it_holds_nobodys_id_address_or_token(api: Api) -> None:
    ann = await api.register("ann.secret@example.com", username="annsecret")
    task = await ann.add_task("A title to keep")
    await ann.client.get(f"/api/{ann.user_id}/tasks", headers=ann.headers)
    await ann.client.get(f"/api/v1/tasks/{task['id']}?token={ann.access_token}", headers=ann.headers)
    await ann.client.get(f"/reset-password/{ann.refresh_token}")
    await ann.client.request(ann.access_token[:40].replace(".", ""), "/ann.secret@example.com")
    text = (await api.client.get("/metrics")).text
    assert "/api/{user_id}/tasks" in text
    for secret in (ann.user_id, "ann", task["id"], "title", ann.access_token[:16], ann.refresh_token[:16], "127.0.0"):
        assert secret not in text, secret


@pytest.mark.covers("A063")
async def test_streams_are_counted_and_not_timed(start_server: StartServer, database_url: str) -> None:
    server = start_server(database_url=database_url)
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
        ann = await register(client)
        async with events(server.base_url, ann.access_token), socket(server.base_url, ann.access_token):
            found = read((await client.get("/metrics")).text)
            assert found["duly_live_streams"] == 2
            assert found["duly_http_requests_in_flight"] == 1
        await client.get("/api/v1/events")  # nobody
        deadline = time.monotonic() + 10
        text = ""
        while len(series(text, "duly_http_requests_total")) < 6 and time.monotonic() < deadline:
            text = (await client.get("/metrics")).text
    found = series(text, "duly_http_requests_total")
    assert (found["GET", "/api/v1/events", "200"], found["GET", "/api/v1/ws", "101"]) == (1, 1)
    timed = series(text, COUNT)
    assert timed["GET", "/api/v1/events"] == 1  # the refusal
    assert ("GET", "/api/v1/ws") not in timed
