// A page signs up at Better Auth, calls Duly with its token, and its server does so too.
import assert from "node:assert/strict";
import { becomePage, load } from "./browser.mjs";

const sent = becomePage(process.env.BETTER_AUTH_URL);
const { authClient } = await load("lib/auth-client.js");
const { duly } = await load("lib/duly.js");
const asked = () => sent.filter(({ path }) => path === "/api/auth/token").length;
const password = "correct horse battery staple";

await assert.rejects(duly.fetch("/tasks"), { message: "Sign in first." });
assert.equal((await fetch("/summary")).status, 401);

const { data, error } = await authClient.signUp.email({ name: "Ann", email: process.env.EMAIL, password });
assert.equal(error, null);
duly.use(null);
const before = asked();
const answers = await Promise.all(["One", "Two", "Three"].map((title) =>
  duly.fetch("/tasks", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ title }) })));
assert.deepEqual(answers.map(({ status }) => status), [201, 201, 201]);
assert.equal(asked() - before, 1, "calls at the same moment share one token");
const profile = await (await duly.fetch("/users/profile")).json();
assert.deepEqual([profile.id, profile.name], [data.user.id, "Ann"]);
for (const { path, headers } of sent.filter(({ path }) => path.startsWith("/api/v1"))) {
  assert.equal(headers.get("cookie"), null, path);
}

// A token that is refused is replaced once, and the call is sent again.
duly.use("not.a.token");
assert.equal((await duly.fetch("/tasks")).status, 200);
assert.equal(asked() - before, 2);

const summary = await fetch("/summary");
assert.equal(summary.status, 200);
assert.equal((await summary.json()).total, 3);

const old = await duly.token();
await authClient.signOut();
duly.use(null);
await assert.rejects(duly.fetch("/tasks"), { message: "Sign in first." });
const late = await fetch(`${process.env.DULY}/api/v1/tasks`, { headers: { Authorization: `Bearer ${old}` } });
assert.equal(late.status, 200, "a JWT outlives the sign-out, as the guide says");
