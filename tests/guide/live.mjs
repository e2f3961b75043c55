// The feed by fetch and by WebSocket: each change once, also those of a time without a connection.
import assert from "node:assert/strict";
import { until } from "./browser.mjs";
import { signedIn } from "./signed_in.mjs";

const { load, sent } = await signedIn();
const { duly } = await load("lib/duly.js");
const { follow } = await load("lib/live.js");
const { followBySocket } = await load("lib/socket.js");
const { createTask } = await load("lib/tasks.js");
const add = (title) => createTask({ title }, title);

// By fetch. The connection is broken once, under the reader's hands, and the next one goes on after the last event.
const page = globalThis.fetch;
const streams = [];
globalThis.fetch = async (url, options = {}) => {
  if (!String(url).endsWith("/events")) return page(url, options);
  const cut = new AbortController();
  streams.push(cut);
  return page(url, { ...options, signal: AbortSignal.any([options.signal, cut.signal]) });
};
console.warn = () => {};
const leave = new AbortController();
const read = [];
let ready = 0;
const following = follow({ onReady: () => (ready += 1), onChange: (change) => read.push(change), signal: leave.signal });
await until(() => ready === 1);
await add("first");
await until(() => read.length === 1);
streams[0].abort();
await add("while it was away");
await until(() => read.length === 2);
await add("third");
await until(() => read.length === 3);
assert.deepEqual(read.map(({ type, task }) => [type, task.title]), [
  ["task.created", "first"], ["task.created", "while it was away"], ["task.created", "third"],
]);
assert.equal(ready, 1, "what was shown stays right, so nothing is loaded anew");
const asked = sent.filter(({ path }) => path.endsWith("/events"));
assert.equal(asked.length, 2);
assert.equal(asked[1].headers.get("last-event-id"), read[0].cursor);
leave.abort();
await following;

// By WebSocket, from the cursor that the other one stood at; then from a cursor that is none.
const messages = [];
const socket = await followBySocket((message) => messages.push(message), read[1].cursor);
await until(() => messages.length === 1);
await add("fourth");
await until(() => messages.length === 2);
assert.deepEqual(messages.map(({ event, task }) => [event, task.title]), [
  ["task.created", "third"], ["task.created", "fourth"],
]);
assert.equal(socket.protocol, "duly.v1");
socket.close(1000);
const strange = await followBySocket(() => {}, "none-of-ours");
const { code, reason } = await new Promise((resolve) => strange.addEventListener("close", resolve));
assert.deepEqual([code, reason], [4400, "BAD_CURSOR"]);
