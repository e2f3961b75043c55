/** The story of calls with the functions of orval. */

import {
  createTask,
  deleteTask,
  listTasks,
  login as logIn,
  readTask,
  register,
  updateTask,
  type Problem,
  type ValidationProblem,
} from "./generated/orval.js";
import { need, say } from "./harness.js";

// Its functions ask for paths, as a page of the same origin does.
const { fetch } = globalThis;
globalThis.fetch = (address, init) => fetch(new URL(String(address), need("baseUrl")), init);

const email = need("email");
const password = "tangerine-orbit-92";
const codeOf = (answer: { data: Problem | ValidationProblem }): string => answer.data.code;

const registered = await register({ email, password });
say("register", registered.status);
// A login may be a form too, so it does not say which of the two it sends.
const login = await logIn({ email, password }, { headers: { "Content-Type": "application/json" } });
if (login.status !== 200) throw new Error(codeOf(login));
say("login", [login.status, login.data.user.email === email]);
const headers = { Authorization: `Bearer ${login.data.access_token}` };

const created = await createTask({ title: "One" }, { headers });
if (created.status !== 201) throw new Error(codeOf(created));
say("create", [created.status, created.data.title]);
const { id } = created.data;
const listed = await listTasks({ status: "pending", limit: 10 }, { headers });
if (listed.status !== 200) throw new Error(codeOf(listed));
say("list", [listed.status, listed.data.total, listed.data.items[0]?.title]);
const matched = { headers: { ...headers, "If-Match": created.headers.get("ETag") ?? "" } };
const updated = await updateTask(id, { title: "Two" }, matched);
if (updated.status !== 200) throw new Error(codeOf(updated));
say("update", [updated.status, updated.data.title]);
const stale = await updateTask(id, { title: "Three" }, matched);
say("stale", [stale.status, stale.status === 412 ? codeOf(stale) : null]);
const invalid = await createTask({ title: "" }, { headers });
say("invalid", invalid.status === 422 ? [invalid.status, codeOf(invalid), invalid.data.errors[0]?.field] : [invalid.status]);
say("delete", (await deleteTask(id, { headers })).status);
const missing = await readTask(id, { headers });
say("missing", [missing.status, missing.status === 404 ? codeOf(missing) : null]);
