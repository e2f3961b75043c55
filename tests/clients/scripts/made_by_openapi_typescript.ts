/** The story of calls with the types of openapi-typescript and the client of openapi-fetch. */

import createClient from "openapi-fetch";

import type { paths } from "./generated/schema.js";
import { need, say } from "./harness.js";

const client = createClient<paths>({ baseUrl: need("baseUrl") });
const email = need("email");
const password = "tangerine-orbit-92";

const registered = await client.POST("/api/v1/auth/register", { body: { email, password } });
say("register", registered.response.status);
const login = await client.POST("/api/v1/auth/login", { body: { email, password } });
const token: string | undefined = login.data?.access_token;
say("login", [login.response.status, login.data?.user.email === email]);
client.use({
  onRequest({ request }) {
    request.headers.set("Authorization", `Bearer ${token}`);
    return request;
  },
});

const created = await client.POST("/api/v1/tasks", { body: { title: "One" } });
say("create", [created.response.status, created.data?.title]);
const params = { path: { task_id: created.data?.id ?? "" } };
const listed = await client.GET("/api/v1/tasks", { params: { query: { status: "pending", limit: 10 } } });
say("list", [listed.response.status, listed.data?.total, listed.data?.items[0]?.title]);
const header = { "If-Match": created.response.headers.get("ETag") ?? "" };
const updated = await client.PATCH("/api/v1/tasks/{task_id}", { params: { ...params, header }, body: { title: "Two" } });
say("update", [updated.response.status, updated.data?.title]);
const stale = await client.PATCH("/api/v1/tasks/{task_id}", { params: { ...params, header }, body: { title: "Three" } });
say("stale", [stale.response.status, stale.error?.code]);
const invalid = await client.POST("/api/v1/tasks", { body: { title: "" } });
const fields = invalid.error !== undefined && "errors" in invalid.error ? invalid.error.errors : [];
say("invalid", [invalid.response.status, invalid.error?.code, fields[0]?.field]);
say("delete", (await client.DELETE("/api/v1/tasks/{task_id}", { params })).response.status);
const missing = await client.GET("/api/v1/tasks/{task_id}", { params });
say("missing", [missing.response.status, missing.error?.code]);
