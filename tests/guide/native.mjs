// An app without cookies: the session token is in the keychain, and brings a JWT when one is needed.
import assert from "node:assert/strict";
import { request } from "node:http";
import { load } from "./browser.mjs";

// A device's network stack sends what the program names and nothing of a browser's; Node's `fetch` adds Sec-Fetch-Mode.
globalThis.fetch = (url, { method = "GET", headers = {}, body } = {}) =>
  new Promise((resolve, reject) => {
    const asked = request(url, { method, headers }, async (answer) => {
      const [status, text] = [answer.statusCode, Buffer.concat(await answer.toArray())];
      const found = new Response([204, 304].includes(status) ? null : text, { status });
      for (const [name, value] of Object.entries(answer.headers)) found.headers.set(name, value);
      resolve(found);
    });
    asked.on("error", reject).end(body);
  });

const { duly, signIn } = await load("lib/native.js");
const { getItemAsync, setItemAsync } = await load("expo-secure-store/index.js");

await assert.rejects(signIn("ann@example.com", "not the password"), { message: "Invalid email or password" });
await assert.rejects(duly.fetch("/tasks"), { message: "Sign in first." });
await signIn("ann@example.com", process.env.PASSWORD);
assert.match(await getItemAsync("session"), /^[^.]+(\.[^.]+)?$/, "a session token is no JWT");
const profile = await (await duly.fetch("/users/profile")).json();
assert.equal(profile.id, process.env.USER_ID);
await setItemAsync("session", "gone");
duly.use(null);
await assert.rejects(duly.fetch("/tasks"), { message: "Sign in first." });
