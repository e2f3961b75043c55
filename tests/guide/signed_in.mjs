// A page whose person has just signed up at Better Auth.
import { becomePage, load } from "./browser.mjs";

export async function signedIn() {
  const sent = becomePage(process.env.BETTER_AUTH_URL);
  const { authClient } = await load("lib/auth-client.js");
  const { error } = await authClient.signUp.email({ name: "Ann", email: process.env.EMAIL, password: "correct horse battery" });
  if (error) throw new Error(error.message);
  return { load, sent };
}
