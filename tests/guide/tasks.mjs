// Create once, list through every page, edit without overwriting somebody.
import assert from "node:assert/strict";
import { signedIn } from "./signed_in.mjs";

const { load, sent } = await signedIn();
const { allTasks, createTask, editTask } = await load("lib/tasks.js");
const { duly } = await load("lib/duly.js");

const task = await createTask({ title: "Water the plants", due_date: "2026-12-31T09:00:00Z" }, "plants-1");
const again = await createTask({ title: "Water the plants", due_date: "2026-12-31T09:00:00Z" }, "plants-1");
assert.equal(again.id, task.id);
await assert.rejects(createTask({ title: "Another" }, "plants-1"), { status: 422, code: "IDEMPOTENCY_KEY_REUSED" });
await assert.rejects(createTask({ title: "" }, "empty"), (error) => {
  assert.deepEqual([error.status, error.code, error.errors[0].field], [422, "VALIDATION_ERROR", "title"]);
  assert.ok(error.message && error.request_id);
  return true;
});

for (let round = 0; round < 2; round += 1) {
  const operations = Array.from({ length: 75 }, (_, index) => ({ op: "create", task: { title: `${round} ${index}` } }));
  const body = JSON.stringify({ operations });
  await duly.fetch("/tasks/bulk", { method: "POST", headers: { "Content-Type": "application/json" }, body });
}
const titles = new Set();
const pages = () => sent.filter(({ method, path }) => method === "GET" && path.endsWith("/tasks")).length;
const before = pages();
for await (const { id } of allTasks({ status: "pending" })) titles.add(id);
assert.deepEqual([titles.size, pages() - before], [151, 2]);

const edited = await editTask(task, { title: "Water all plants", due_date: null });
assert.deepEqual([edited.title, edited.due_date, edited.version], ["Water all plants", null, 2]);
await assert.rejects(editTask(task, { title: "Mine" }), (error) => {
  assert.deepEqual([error.status, error.code, error.theirs.title], [412, "STALE_VERSION", "Water all plants"]);
  return true;
});
const theirs = await editTask(edited, { description: "Kitchen" });
assert.deepEqual([theirs.title, theirs.description], ["Water all plants", "Kitchen"]);
