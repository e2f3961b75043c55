/** A session from registering to signing out, each call typed; what must not compile is marked, and fails when it does. */

import { createDulyClient, DulyError, memoryStore, Session, StaleTaskError, type Task } from "@duly/client";

import { need, say } from "./harness.js";

const baseUrl = need("baseUrl");
const session = new Session({ baseUrl, store: memoryStore() });
const duly = createDulyClient({ baseUrl, auth: session });

async function refusal(call: Promise<unknown>): Promise<DulyError> {
  const error: unknown = await call.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof DulyError)) throw new Error("it was not refused");
  return error;
}

const credentials = { email: "typed@example.com", password: "tangerine-orbit-92" };
say("registered", (await session.register({ ...credentials, name: "Ann" }))?.name);
await session.signOut();
say("signed out", await session.isSignedIn());
const wrong = await refusal(session.signIn({ ...credentials, password: "not the password" }));
say("wrong password", [wrong.status, wrong.code, wrong.attempts]);
say("signed in", (await session.signIn(credentials)).email);

const { data: task, response } = await duly.POST("/api/v1/tasks", { body: { title: "One", priority: "high", tags: ["home"] } });
const title: string = task.title;
const due: string | null = task.due_date;
say("created", [title, due, task.version, response.headers.get("ETag")]);
const path = { task_id: task.id };

const { data: page } = await duly.GET("/api/v1/tasks", { params: { query: { priority: "high", sort: "-due_date", limit: 10 } } });
const first: Task | undefined = page.items[0];
say("listed", [page.total, first?.title]);

const { data: edited } = await duly.PATCH("/api/v1/tasks/{task_id}", {
  params: { path, header: { "If-Match": response.headers.get("ETag") ?? "" } },
  body: { title: "Two" },
});
say("edited", [edited.title, edited.version]);

const stale = await refusal(
  duly.PUT("/api/v1/tasks/{task_id}", { params: { path, header: { "If-Match": '"1"' } }, body: { title: "Three" } }),
);
if (!(stale instanceof StaleTaskError)) throw new Error("a stale edit of a task is one");
const current = await stale.current();
say("stale", [stale.status, stale.code, stale.isStale, current.task.title, current.etag]);
const { data: completed } = await duly.PATCH("/api/v1/tasks/{task_id}/complete", {
  params: { path, header: { "If-Match": current.etag } },
  body: { completed: true },
});
say("completed", completed.completed);

const form = new FormData();
form.set("file", new Blob(["title\r\nFrom a file\r\n"]), "tasks.csv");
const { data: report } = await duly.POST("/api/v1/tasks/import", { body: { file: "" }, bodySerializer: () => form });
say("imported", report.created);
const { data: exported } = await duly.GET("/api/v1/tasks/export", { params: { query: { format: "csv" } }, parseAs: "text" });
say("exported", exported.split("\r\n").length);

const unchanged = await duly.GET("/api/v1/tasks/{task_id}", { params: { path, header: { "If-None-Match": '"3"' } } });
say("not modified", unchanged.response.status);
const invalid = await refusal(duly.POST("/api/v1/tasks", { body: { title: "" } }));
say("invalid", [invalid.status, invalid.code, invalid.errors[0]?.field, invalid.requestId?.length]);
say("deleted", (await duly.DELETE("/api/v1/tasks/{task_id}", { params: { path } })).response.status);
const missing = await refusal(duly.GET("/api/v1/tasks/{task_id}", { params: { path } }));
say("missing", [missing.status, missing.code, missing.message === missing.detail]);
const mismatch = await refusal(duly.GET("/api/{user_id}/tasks", { params: { path: { user_id: "somebody" } } }));
say("owner", [mismatch.status, mismatch.code, mismatch.requestId?.length]);
const forbidden = await refusal(duly.GET("/api/admins/me"));
say("accounts", [forbidden.status, forbidden.code, forbidden.requestId?.length]);
const late = await duly.GET("/api/v1/tasks", { signal: AbortSignal.abort("enough") }).catch((reason: unknown) => reason);
say("aborted", late);
await session.signOut({ allSessions: true });
say("nobody", (await refusal(duly.GET("/api/v1/auth/me"))).code);

/** Never called: the compiler reads it. */
export async function mustNotCompile(): Promise<void> {
  // @ts-expect-error -- no such path
  await duly.GET("/api/v1/task");
  // @ts-expect-error -- no such method there
  await duly.DELETE("/api/v1/tasks");
  // @ts-expect-error -- the title is required
  await duly.POST("/api/v1/tasks", { body: {} });
  // @ts-expect-error -- the body is required
  await duly.POST("/api/v1/tasks");
  // @ts-expect-error -- the id is required
  await duly.GET("/api/v1/tasks/{task_id}");
  // @ts-expect-error -- not a priority
  await duly.POST("/api/v1/tasks", { body: { title: "x", priority: "highest" } });
  // @ts-expect-error -- not an order
  await duly.GET("/api/v1/tasks", { params: { query: { sort: "size" } } });
  // @ts-expect-error -- a page may be empty
  page.items[0].title;
  // @ts-expect-error -- a task has no such field
  edited.heading;
}
