// Duly's own accounts: one refresh at a time, one retry, the ten seconds of forgiveness, and the end of a session.
import assert from "node:assert/strict";
import { becomePage, load, until } from "./browser.mjs";

const api = `${process.env.DULY}/api/v1`;
const sent = becomePage("http://localhost:3000");
const { createSession } = await load("lib/session.js");
const kept = new Map();
const storage = { get: async () => kept.get("token") ?? null, set: async (token) => void kept.set("token", token) };
const session = createSession(api, storage);
const refreshes = () => sent.filter(({ path }) => path.endsWith("/auth/refresh")).length;
const refresh = (refresh_token) => fetch(`${api}/auth/refresh`, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ refresh_token }),
});

const [email, password] = ["ann@example.com", "tangerine-orbit-92"];
await assert.rejects(session.fetch("/auth/me"), { message: "Sign in first." });
await assert.rejects(session.logIn(email, "wrong"), { status: 401, code: "INVALID_CREDENTIALS" });
await session.logIn(email, password);
assert.equal((await session.fetch("/auth/me")).status, 200);
assert.equal(refreshes(), 0);

// Five calls with a token that is not good any more bring one refresh.
session.use("as.good.as.expired");
const statuses = await Promise.all([1, 2, 3, 4, 5].map(async () => (await session.fetch("/auth/me")).status));
assert.deepEqual(statuses, [200, 200, 200, 200, 200]);
assert.equal(refreshes(), 1);

// After a reload the stored token is enough.
const reloaded = createSession(api, storage);
const first = kept.get("token");
assert.equal((await reloaded.fetch("/auth/me")).status, 200);
const second = kept.get("token");
assert.notEqual(second, first);

// The token just replaced brings the same pair again; the one before ends the session.
assert.equal((await (await refresh(first)).json()).refresh_token, second);
await refresh(second);
const reused = await refresh(first);
assert.deepEqual([reused.status, (await reused.json()).code], [401, "TOKEN_REUSED"]);
reloaded.use(null);
await assert.rejects(reloaded.fetch("/auth/me"), { status: 401, code: "SESSION_ENDED" });
assert.equal(kept.get("token"), null);

await session.logIn(email, password);
const last = await session.token();
await session.logOut();
assert.equal(kept.get("token"), null);
const ended = await fetch(`${api}/auth/me`, { headers: { Authorization: `Bearer ${last}` } });
assert.equal(ended.status, 401);
