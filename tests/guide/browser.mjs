// What the runners share: the guide's modules, and what a browser adds to `fetch`.
import { join } from "node:path";
import { pathToFileURL } from "node:url";

/** A module of the guide, by the name in its first line. */
export const load = (name) => import(pathToFileURL(join(process.env.SNIPPETS, name)).href);

/**
 * From now on `fetch` is that of a page at `origin`: relative addresses, its own cookies to its own origin alone, an Origin
 * header, and no look at the answer of another origin that does not admit it. Gives what was sent, as it grows.
 */
export function becomePage(origin) {
  const plain = globalThis.fetch;
  const cookies = new Map();
  const sent = [];
  globalThis.fetch = async (input, options = {}) => {
    const url = new URL(input, origin);
    const headers = new Headers(options.headers);
    headers.set("Origin", origin);
    if (url.origin === origin) headers.set("Cookie", [...cookies].map((pair) => pair.join("=")).join("; "));
    sent.push({ method: options.method ?? "GET", path: url.pathname, headers });
    const answer = await plain(url, { ...options, headers });
    if (url.origin === origin) keep(cookies, answer);
    else if (answer.headers.get("access-control-allow-origin") !== origin) throw new TypeError(`CORS: ${url}`);
    return answer;
  };
  return sent;
}

function keep(cookies, answer) {
  for (const line of answer.headers.getSetCookie()) {
    const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
    if (/max-age=0\b/i.test(line)) cookies.delete(name);
    else cookies.set(name, value);
  }
}

/** Until `condition` gives something; fails after a minute. */
export async function until(condition) {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`never came: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
