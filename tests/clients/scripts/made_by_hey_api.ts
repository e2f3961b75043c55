/** The story of calls with the functions of hey-api. */

import { client } from "./generated/client.gen.js";
import { createTask, deleteTask, listTasks, login as logIn, readTask, register, updateTask } from "./generated/sdk.gen.js";
import { need, say } from "./harness.js";

let token = "";
client.setConfig({ baseUrl: need("baseUrl"), auth: () => token });
const email = need("email");
const password = "tangerine-orbit-92";

const registered = await register({ body: { email, password } });
say("register", registered.response?.status);
const login = await logIn({ body: { email, password } });
token = login.data?.access_token ?? "";
say("login", [login.response?.status, login.data?.user.email === email]);

const created = await createTask({ body: { title: "One" } });
say("create", [created.response?.status, created.data?.title]);
const path = { task_id: created.data?.id ?? "" };
const listed = await listTasks({ query: { status: "pending", limit: 10 } });
say("list", [listed.response?.status, listed.data?.total, listed.data?.items[0]?.title]);
const headers = { "If-Match": created.response?.headers.get("ETag") ?? "" };
const updated = await updateTask({ path, headers, body: { title: "Two" } });
say("update", [updated.response?.status, updated.data?.title]);
const stale = await updateTask({ path, headers, body: { title: "Three" } });
say("stale", [stale.response?.status, stale.error?.code]);
const invalid = await createTask({ body: { title: "" } });
const fields = invalid.error !== undefined && "errors" in invalid.error ? invalid.error.errors : [];
say("invalid", [invalid.response?.status, invalid.error?.code, fields[0]?.field]);
say("delete", (await deleteTask({ path })).response?.status);
const missing = await readTask({ path });
say("missing", [missing.response?.status, missing.error?.code]);
