/** A session whose access token is of no use any more, and 20 calls that find out at once. */

import { createDulyClient, Session, type SessionStore, type Tokens } from "@duly/client";

import { given, hear, need, outcome, say } from "./harness.js";

let held: Tokens | null = {
  accessToken: need("accessToken"),
  refreshToken: need("refreshToken"),
  expiresAt: need("expired") === "yes" ? 0 : Date.now() + 900_000,
};
let isSaving = false;
let refreshes = 0;
const store: SessionStore = {
  load: async () => held,
  async save(tokens) {
    isSaving = true;
    // A store on a disk takes its time; nobody may go on meanwhile.
    await new Promise((resolve) => setTimeout(resolve, 200));
    held = tokens;
    isSaving = false;
  },
  clear() {
    held = null;
  },
};

async function watchedFetch(request: Request): Promise<Response> {
  if (request.url.endsWith("/auth/refresh")) refreshes += 1;
  if (isSaving && !request.url.includes("/auth/")) say("too early", request.url);
  return fetch(request);
}

const baseUrl = need("baseUrl");
const session = new Session({
  baseUrl,
  store,
  onSignedOut: (reason) => say("onSignedOut", reason.code),
  fetch: watchedFetch,
  // Unless the test says so, a slow answer is no reason for one more attempt.
  retry: { attemptMilliseconds: Number(given["patience"] ?? "0") },
});
const duly = createDulyClient({ baseUrl, auth: session, fetch: watchedFetch });

for (;;) {
  const calls = Array.from({ length: 20 }, () => outcome(duly.GET("/api/v1/tasks")));
  const outcomes = new Set(await Promise.all(calls));
  say("came of it", [...outcomes]);
  say("held", held?.refreshToken ?? null);
  say("refreshes", refreshes);
  await hear();
}
