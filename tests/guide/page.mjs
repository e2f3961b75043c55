// Serves the guide's route handlers as Next.js does: node page.mjs PORT. Prints "ready"; ends when its input closes.
import { createServer } from "node:http";
import { load } from "./browser.mjs";

const routes = [
  ["/api/auth/", await load("app/api/auth/[...all]/route.js")],
  ["/summary", await load("app/summary/route.js")],
  ["/duly-token", await load("app/duly-token/route.js")],
];

async function answer(incoming) {
  const url = new URL(incoming.url, process.env.BETTER_AUTH_URL);
  const handlers = routes.find(([path]) => url.pathname.startsWith(path))?.[1];
  const handle = handlers?.[incoming.method];
  if (!handle) return new Response("no such page", { status: 404 });
  const pieces = await incoming.toArray();
  const body = pieces.length ? Buffer.concat(pieces) : undefined;
  return handle(new Request(url, { method: incoming.method, headers: incoming.headers, body }));
}

const server = createServer(async (incoming, outgoing) => {
  const found = await answer(incoming);
  for (const [name, value] of found.headers) {
    if (name !== "set-cookie") outgoing.setHeader(name, value);
  }
  outgoing.setHeader("set-cookie", found.headers.getSetCookie());
  outgoing.writeHead(found.status);
  outgoing.end(Buffer.from(await found.arrayBuffer()));
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => console.log("ready"));
process.stdin.resume().on("end", () => process.exit(0));
