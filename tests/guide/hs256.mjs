// The route that signs HS256 itself: its token is taken, and what Better Auth signs by itself is not.
import assert from "node:assert/strict";
import { becomePage, load } from "./browser.mjs";

becomePage(process.env.BETTER_AUTH_URL);
const { authClient } = await load("lib/auth-client.js");
const { createClient } = await load("lib/client.js");
const header = (token) => JSON.parse(Buffer.from(token.split(".")[0], "base64url").toString());

assert.equal((await fetch("/duly-token")).status, 401);
const { data } = await authClient.signUp.email({ name: "Ann", email: process.env.EMAIL, password: "correct horse battery" });
const { token } = await (await fetch("/duly-token")).json();
assert.deepEqual(header(token), { alg: "HS256" });

const duly = createClient(`${process.env.DULY}/api/v1`, async () => token);
const profile = await (await duly.fetch("/users/profile")).json();
assert.deepEqual([profile.id, profile.name], [data.user.id, "Ann"]);

const eddsa = (await authClient.token()).data.token;
assert.equal(header(eddsa).alg, "EdDSA");
const refused = await createClient(`${process.env.DULY}/api/v1`, async () => eddsa).fetch("/users/profile");
assert.equal(refused.status, 401);
assert.match((await refused.json()).detail, /is signed with an algorithm that is not accepted here/);
