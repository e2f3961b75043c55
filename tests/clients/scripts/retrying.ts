/** Calls over a connection that the test breaks. */

import { createDulyClient, StaleTaskError, tokenSource } from "@duly/client";

import { hear, need, outcome, say } from "./harness.js";

const duly = createDulyClient({ baseUrl: need("baseUrl"), auth: tokenSource(async () => need("accessToken")) });

async function create(): Promise<void> {
  const { data, response } = await duly.POST("/api/v1/tasks", { body: { title: "Once" } });
  say("created", [data.id, response.headers.get("Idempotency-Replayed")]);
}

async function edit(task_id: string, etag: string): Promise<void> {
  try {
    await duly.PATCH("/api/v1/tasks/{task_id}", {
      params: { path: { task_id }, header: { "If-Match": etag } },
      body: { title: "Edited" },
    });
    say("edited");
  } catch (error) {
    if (!(error instanceof StaleTaskError)) throw error;
    say("stale", [error.attempts, (await error.current()).task.title]);
  }
}

for (;;) {
  const [verb = "", task_id = "", etag = ""] = (await hear()).split(" ");
  const params = { path: { task_id } };
  if (verb === "create") await create();
  if (verb === "edit") await edit(task_id, etag);
  if (verb === "toggle") say("toggled", await outcome(duly.PATCH("/api/v1/tasks/{task_id}/complete", { params })));
  if (verb === "delete") say("deleted", await outcome(duly.DELETE("/api/v1/tasks/{task_id}", { params })));
  if (verb === "restore") say("restored", await outcome(duly.POST("/api/v1/tasks/{task_id}/restore", { params })));
  if (verb === "list") say("listed", await outcome(duly.GET("/api/v1/tasks")));
  if (verb === "many") {
    say("many", [...new Set(await Promise.all(Array.from({ length: 10 }, () => outcome(duly.GET("/api/v1/tasks")))))]);
  }
  if (verb === "health") say("health", await outcome(duly.GET("/health/live")));
}
