/** The live feed, over whatever the test does to the connection. */

import { createDulyClient, DulyError, memoryStore, Session } from "@duly/client";

import { need, given, hear, say } from "./harness.js";

const baseUrl = need("baseUrl");
const store = memoryStore({
  accessToken: need("accessToken"),
  refreshToken: need("refreshToken"),
  expiresAt: Date.now() + 900_000,
});
const session = new Session({ baseUrl, store, onSignedOut: (reason) => say("onSignedOut", reason.code) });
const duly = createDulyClient({ baseUrl, auth: session });
const leaving = new AbortController();
void hear().then(() => leaving.abort());

try {
  const feed = duly.changes({
    signal: leaving.signal,
    onReady: (cursor) => say("ready", cursor),
    onCut: (reason) => say("cut", reason.code),
    ...(given["since"] === undefined ? {} : { since: given["since"] }),
    ...(given["silence"] === undefined ? {} : { silenceMilliseconds: Number(given["silence"]) }),
  });
  for await (const change of feed) say("change", [change.type, change.task?.title ?? null, change.cursor]);
  say("left");
} catch (error) {
  if (!(error instanceof DulyError)) throw error;
  say("refused", [error.status, error.code]);
}
