// The rewrites send v1 to Duly and leave Better Auth's addresses to Next.js.
import assert from "node:assert/strict";
import { load } from "./browser.mjs";

const config = (await load("next.config.mjs")).default;
const rules = (await config.rewrites()).map(({ source, destination }) => {
  const pattern = new RegExp(`^${source.replace("/:path*", "(?:/(.*))?")}$`);
  return (path) => pattern.exec(path) && destination.replace(":path*", pattern.exec(path)[1] ?? "");
});
const sentTo = (path) => rules.map((rule) => rule(path)).find(Boolean) ?? null;

for (const path of ["/", "/api/auth/token", "/api/auth/sign-in/email", "/api/auth/jwks", "/summary", "/api/v1x"]) {
  assert.equal(sentTo(path), null, path);
}
const { code } = await (await fetch(sentTo("/api/v1/tasks"))).json();
assert.equal(code, "NOT_AUTHENTICATED");
assert.equal((await fetch(sentTo("/api/auth/token") ?? `${process.env.DULY}/api/auth/token`)).status, 404);
