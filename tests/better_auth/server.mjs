// A real better-auth server for tests: node server.mjs PORT [ROTATION_SECONDS] [SESSION_COOKIE: secret|jwks]
// PORT 0 takes a free port. Prints one JSON line when ready; ends when its standard input closes.
import { createServer } from "node:http";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { bearer, jwt } from "better-auth/plugins";

const [port = "0", rotation = "0", sessionCookie = "secret"] = process.argv.slice(2);
const secret = process.env.BETTER_AUTH_SECRET;
const mailed = new Map();

function buildAuth(origin) {
  return betterAuth({
    baseURL: origin,
    secret,
    database: memoryAdapter({ user: [], session: [], account: [], verification: [], jwks: [] }),
    emailAndPassword: { enabled: true },
    emailVerification: {
      sendOnSignUp: true,
      sendVerificationEmail: async ({ user, token }) => void mailed.set(user.email, token),
    },
    session: { cookieCache: { enabled: true, strategy: "jwt" } },
    rateLimit: { enabled: false },
    telemetry: { enabled: false },
    logger: { level: "error" },
    plugins: [
      bearer(),
      jwt({
        sessionCookieCache: sessionCookie === "jwks",
        jwks: Number(rotation) > 0 ? { rotationInterval: Number(rotation) } : {},
      }),
    ],
  });
}

const server = createServer();
server.listen(Number(port), "127.0.0.1", () => {
  const origin = `http://127.0.0.1:${server.address().port}`;
  const handle = toNodeHandler(buildAuth(origin));
  server.on("request", (request, response) => {
    const url = new URL(request.url, origin);
    if (url.pathname !== "/mailed-token") return handle(request, response);
    response.end(mailed.get(url.searchParams.get("email")) ?? "");
  });
  console.log(JSON.stringify({ origin }));
});
process.stdin.resume().on("end", () => process.exit(0));
