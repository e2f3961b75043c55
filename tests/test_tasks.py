"""One task at a time: create, list, read, update, complete, delete, for its owner and for nobody else."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.fixtures.application import Api, Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS = [
    "id", "user_id", "title", "description", "completed", "completed_at", "priority", "due_date", "tags", "version",
    "created_at", "updated_at",
]  # fmt: skip


def moment(text: str) -> datetime:
    """A time of an answer, which always ends with Z and has six digits of a second."""
    assert len(text) == 27
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


async def titles(person: Person, query: str = "") -> list[str]:
    response = await person.get(f"/tasks{query}")
    assert response.status_code == 200, response.text
    return [task["title"] for task in response.json()["items"]]


@pytest.mark.covers("B032", "B068", "E027", "E028", "E064", "E082")
class TestTaskCreate:
    @pytest.mark.covers("E015", "E017", "E056", "E116", "B013")
    async def test_a_title_is_enough(self, carol: Person) -> None:
        before = datetime.now(UTC)
        response = await carol.post("/tasks", json={"title": "Water the plants"})
        task = response.json()
        assert (response.status_code, list(task)) == (201, FIELDS)
        assert task | {"id": "", "created_at": "", "updated_at": ""} == {
            "id": "", "user_id": carol.user_id, "title": "Water the plants", "description": None, "completed": False,
            "completed_at": None, "priority": "medium", "due_date": None, "tags": [], "version": 1, "created_at": "",
            "updated_at": "",
        }  # fmt: skip
        assert before <= moment(task["created_at"]) <= datetime.now(UTC)
        assert task["updated_at"] == task["created_at"]
        assert uuid.UUID(task["id"]).version == 7

    async def test_location_and_etag_lead_to_the_new_task(self, carol: Person) -> None:
        response = await carol.post("/tasks", json={"title": "Here"})
        assert response.headers["location"] == f"/api/v1/tasks/{response.json()['id']}"
        read = await carol.client.get(response.headers["location"], headers=carol.headers)
        assert (read.json(), read.headers["etag"]) == (response.json(), response.headers["etag"])
        assert response.headers["etag"] == '"1"'

    async def test_every_field_that_is_sent_is_kept(self, carol: Person) -> None:
        sent = {
            "title": "  Büro – größer 🪴  ", "description": " two\n lines\t", "completed": True, "priority": "urgent",
            "due_date": "2026-12-31T10:00:00.25+01:00", "tags": ["home", "Home", "home"],
        }  # fmt: skip
        task = await carol.add_task(**sent)
        assert task["title"] == "Büro – größer 🪴"
        assert task["description"] == "two\n lines"
        assert (task["priority"], task["tags"]) == ("urgent", ["home", "Home"])
        assert task["due_date"] == "2026-12-31T09:00:00.250000Z"
        assert (task["completed"], task["completed_at"]) == (True, task["created_at"])

    @pytest.mark.covers("E035", "E058", "E060", "E070")
    async def test_what_is_not_valid_is_422_and_names_the_field(self, carol: Person) -> None:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({}, "title"), ({"title": ""}, "title"), ({"title": " \n "}, "title"), ({"title": "x" * 201}, "title"),
            ({"title": 5}, "title"), ({"title": None}, "title"), ({"title": "x", "colour": "red"}, "colour"),
            ({"title": "x", "user_id": "somebody"}, "user_id"), ({"title": "x", "priority": "later"}, "priority"),
        ]  # fmt: skip
        for body, field in wrong:
            response = await carol.post("/tasks", json=body)
            assert (response.status_code, response.json()["errors"][0]["field"]) == (422, field), body
        assert await titles(carol) == []

    @pytest.mark.covers("E066")
    async def test_a_body_that_cannot_be_read_is_400(self, carol: Person) -> None:
        headers = {"Content-Type": "application/json"}
        for body in (b"{", b'{"title": "a", "title": "b"}', b'{"title": "\xff"}', b"title=a", b"\xef\xbb\xbf{}"):
            response = await carol.post("/tasks", content=body, headers=headers)
            assert (response.status_code, response.json()["code"]) == (400, "MALFORMED_REQUEST"), body
        assert await titles(carol) == []

    @pytest.mark.covers("E067")
    async def test_nobody_creates_without_a_token(self, house: Api, carol: Person) -> None:
        response = await house.client.post("/api/v1/tasks", json={"title": "x"})
        assert (response.status_code, response.json()["code"]) == (401, "NOT_AUTHENTICATED")
        assert await titles(carol) == []


@pytest.mark.covers("E027", "E029", "B033", "E079")
class TestTaskList:
    @pytest.mark.covers("E018")
    async def test_an_empty_list_is_an_empty_page(self, carol: Person) -> None:
        response = await carol.get("/tasks")
        assert response.json() == {"items": [], "total": 0, "limit": 50, "offset": 0, "next_cursor": None}

    @pytest.mark.covers("B068")
    async def test_the_newest_comes_first(self, carol: Person) -> None:
        tasks = [await carol.add_task(title) for title in ("one", "two", "three")]
        page = (await carol.get("/tasks")).json()
        assert page["items"] == tasks[::-1]
        assert page["total"] == 3

    @pytest.mark.covers("E080", "E035", "B084")
    async def test_status_filters(self, carol: Person) -> None:
        await carol.add_task("open")
        await carol.add_task("done", completed=True)
        assert await titles(carol, "?status=all") == ["done", "open"]
        assert await titles(carol, "?status=pending") == ["open"]
        assert await titles(carol, "?status=completed") == ["done"]
        assert (await carol.get("/tasks?status=started")).status_code == 422

    @pytest.mark.covers("E045", "E096", "B028")
    async def test_each_sees_only_their_own(self, carol: Person, dave: Person) -> None:
        await carol.add_task("hers")
        await dave.add_task("his")
        assert (await titles(carol), await titles(dave)) == (["hers"], ["his"])
        assert (await dave.get("/tasks")).json()["total"] == 1

    @pytest.mark.covers("B086")
    async def test_pages_are_cut_by_limit_and_offset(self, carol: Person) -> None:
        for number in range(5):
            await carol.add_task(str(number))
        assert await titles(carol, "?limit=2&offset=1") == ["3", "2"]
        assert (await carol.get("/tasks?limit=2&offset=9")).json()["items"] == []

    async def test_the_unversioned_address_is_the_same_list(self, carol: Person) -> None:
        task = await carol.add_task()
        response = await carol.client.get("/api/tasks", headers=carol.headers)
        assert (response.status_code, response.json()["items"]) == (200, [task])

    @pytest.mark.covers("E067")
    async def test_a_list_needs_a_valid_token(self, house: Api, carol: Person) -> None:
        for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic abc"}):
            response = await house.client.get("/api/v1/tasks", headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"].startswith('Bearer realm="duly"')


@pytest.mark.covers("B034", "B068", "E027", "E030", "E081")
class TestTaskGet:
    async def test_a_task_is_read_as_it_was_created(self, carol: Person) -> None:
        task = await carol.add_task("read me", tags=["a"], due_date="2026-12-31T09:00:00Z")
        response = await carol.get(f"/tasks/{task['id']}")
        assert (response.status_code, response.json()) == (200, task)

    @pytest.mark.covers("E069", "E035")
    async def test_absent_foreign_and_impossible_ids_answer_alike(self, carol: Person, dave: Person) -> None:
        foreign = await dave.add_task()
        answers = set()
        for task_id in (foreign["id"], str(uuid.uuid4()), "x", "%00", "é", "a" * 300, "1 OR 1=1"):
            response = await carol.get(f"/tasks/{task_id}")
            problem = response.json()
            answers.add((response.status_code, problem["code"], problem["detail"], problem["title"]))
        assert answers == {(404, "NOT_FOUND", "There is no such task.", "Not found")}

    async def test_a_task_in_the_trash_is_not_found(self, carol: Person) -> None:
        task = await carol.add_task()
        await carol.delete(f"/tasks/{task['id']}")
        assert (await carol.get(f"/tasks/{task['id']}")).status_code == 404

    async def test_reading_needs_a_token(self, house: Api, carol: Person) -> None:
        task = await carol.add_task()
        assert (await house.client.get(f"/api/v1/tasks/{task['id']}")).status_code == 401


@pytest.mark.covers("A019", "B035", "B068", "E027", "E031", "E083")
class TestTaskUpdate:
    @pytest.mark.covers("E016", "E056", "E063")
    async def test_put_keeps_what_is_absent_and_moves_updated_at(self, carol: Person) -> None:
        task = await carol.add_task("old", description="stays", tags=["t"], priority="low")
        response = await carol.put(f"/tasks/{task['id']}", json={"title": "new"})
        changed = response.json()
        assert response.status_code == 200
        assert changed == task | {"title": "new", "version": 2, "updated_at": changed["updated_at"]}
        assert moment(changed["updated_at"]) > moment(task["updated_at"])
        assert (await carol.get(f"/tasks/{task['id']}")).json() == changed

    async def test_patch_changes_every_field(self, carol: Person) -> None:
        task = await carol.add_task()
        sent = {
            "title": "new", "description": "d", "completed": True, "priority": "high", "tags": ["x", "y"],
            "due_date": "2027-01-01T00:00:00.000000Z",
        }  # fmt: skip
        changed = (await carol.patch(f"/tasks/{task['id']}", json=sent)).json()
        assert {name: changed[name] for name in sent} == sent
        assert changed["completed_at"] == changed["updated_at"]

    async def test_null_clears_what_can_be_empty(self, carol: Person) -> None:
        task = await carol.add_task(description="d", due_date="2027-01-01T00:00:00Z", tags=["home"])
        nothing = {"description": None, "due_date": None, "tags": None}
        changed = (await carol.patch(f"/tasks/{task['id']}", json=nothing)).json()
        assert (changed["description"], changed["due_date"], changed["tags"]) == (None, None, [])

    @pytest.mark.covers("E060")
    async def test_what_is_not_valid_changes_nothing(self, carol: Person) -> None:
        task = await carol.add_task("same")
        for body in (
            {"title": ""},
            {"title": None},
            {"priority": None},
            {"completed": "yes"},
            {"x": 1},
        ):
            for method in ("PUT", "PATCH"):
                assert (await carol.request(method, f"/tasks/{task['id']}", json=body)).status_code == 422, body
        assert (await carol.get(f"/tasks/{task['id']}")).json() == task

    @pytest.mark.covers("E069", "E096")
    async def test_somebody_elses_task_is_404_and_stays(self, carol: Person, dave: Person) -> None:
        task = await carol.add_task("hers")
        for method in ("PUT", "PATCH"):
            response = await dave.request(method, f"/tasks/{task['id']}", json={"title": "his"})
            assert response.status_code == 404
        assert (await carol.get(f"/tasks/{task['id']}")).json() == task


@pytest.mark.covers("B036", "B068", "E027", "E032", "E084")
class TestTaskToggleComplete:
    async def test_without_a_body_twice_returns_to_the_start(self, carol: Person) -> None:
        task = await carol.add_task()
        done = (await carol.patch(f"/tasks/{task['id']}/complete")).json()
        assert (done["completed"], done["completed_at"], done["version"]) == (True, done["updated_at"], 2)
        again = (await carol.patch(f"/tasks/{task['id']}/complete")).json()
        assert (again["completed"], again["completed_at"], again["version"]) == (False, None, 3)

    async def test_a_body_sets_and_the_first_moment_stays(self, carol: Person) -> None:
        task = await carol.add_task()
        first = (await carol.patch(f"/tasks/{task['id']}/complete", json={"completed": True})).json()
        second = (await carol.patch(f"/tasks/{task['id']}/complete", json={"completed": True})).json()
        assert (second["completed"], second["completed_at"]) == (True, first["completed_at"])
        reopened = (await carol.patch(f"/tasks/{task['id']}/complete", json={"completed": False})).json()
        assert (reopened["completed"], reopened["completed_at"]) == (False, None)

    async def test_a_body_that_is_not_valid_is_422(self, carol: Person) -> None:
        task = await carol.add_task()
        for body in ({}, {"completed": "true"}, {"completed": 1}, {"completed": None}, {"completed": True, "x": 1}, []):
            assert (await carol.patch(f"/tasks/{task['id']}/complete", json=body)).status_code == 422, body
        assert (await carol.get(f"/tasks/{task['id']}")).json() == task

    async def test_only_the_owner_completes(self, house: Api, carol: Person, dave: Person) -> None:
        task = await carol.add_task()
        assert (await dave.patch(f"/tasks/{task['id']}/complete")).status_code == 404
        assert (await house.client.patch(f"/api/v1/tasks/{task['id']}/complete")).status_code == 401
        assert (await carol.get(f"/tasks/{task['id']}")).json() == task


@pytest.mark.covers("B037", "B068", "E027", "E033", "E085")
class TestTaskDelete:
    @pytest.mark.covers("E065")
    async def test_a_deleted_task_is_gone_from_its_address_and_the_list(self, carol: Person) -> None:
        task = await carol.add_task()
        response = await carol.delete(f"/tasks/{task['id']}")
        assert (response.status_code, response.content) == (204, b"")
        assert "content-type" not in response.headers
        assert (await carol.get(f"/tasks/{task['id']}")).status_code == 404
        assert await titles(carol) == []

    async def test_a_second_delete_is_404(self, carol: Person) -> None:
        task = await carol.add_task()
        statuses = [(await carol.delete(f"/tasks/{task['id']}")).status_code for _ in range(2)]
        assert statuses == [204, 404]

    async def test_only_the_owner_deletes(self, house: Api, carol: Person, dave: Person) -> None:
        task = await carol.add_task()
        assert (await dave.delete(f"/tasks/{task['id']}")).status_code == 404
        assert (await house.client.delete(f"/api/v1/tasks/{task['id']}")).status_code == 401
        assert (await carol.get(f"/tasks/{task['id']}")).json() == task


@pytest.mark.covers("E027", "E034", "E086", "E035")
class TestHealthCheck:
    async def test_health_needs_no_token(self, house: Api) -> None:
        response = await house.client.get("/health")
        assert (response.status_code, response.json()["checks"]["database"]["status"]) == (200, "healthy")
