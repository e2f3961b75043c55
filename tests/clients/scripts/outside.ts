/** Tokens of an outside issuer: how often it is asked, and what it is told. */

import { createDulyClient, tokenSource } from "@duly/client";

import { given, hear, need, outcome, say } from "./harness.js";

const issued = (given["tokens"] ?? "").split(" ").filter((token) => token !== "");

/** The tokens of the test one after the other, then those of Better Auth. */
async function getToken(wasRefused: boolean): Promise<string | null> {
  say("asked", wasRefused);
  const next = issued.shift();
  if (next !== undefined) return next;
  if (given["issuer"] === undefined) return null;
  const headers = { Authorization: `Bearer ${need("sessionToken")}` };
  const answer = await fetch(`${given["issuer"]}/api/auth/token`, { headers });
  return ((await answer.json()) as { token: string }).token;
}

const duly = createDulyClient({ baseUrl: need("baseUrl"), auth: tokenSource(getToken) });
const feed = duly.changes({ onReady: () => say("ready"), onCut: (reason) => say("cut", reason.code) });

for (;;) {
  const verb = await hear();
  if (verb === "call") {
    say("came of it", [...new Set(await Promise.all(Array.from({ length: 20 }, () => outcome(duly.GET("/api/v1/tasks")))))]);
  }
  if (verb === "follow") say("change", (await feed.next()).value?.type);
}
