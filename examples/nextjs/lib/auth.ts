import "server-only"
import { mkdirSync } from "node:fs"
import { betterAuth, type BetterAuthOptions } from "better-auth"
import { getMigrations } from "better-auth/db/migration"
import { jwt } from "better-auth/plugins"
import { SignJWT } from "jose"
import { SqliteDialect } from "kysely"
import Database from "libsql"
import { settings } from "./settings"

/** Better Auth with its tables made. Built at the first request, not when Next builds the app. */
export const auth = (() => {
  let built: Promise<Auth> | undefined
  return () => (built ??= build())
})()

type Auth = Awaited<ReturnType<typeof build>>

async function build() {
  const { appUrl, secret, dataDir } = settings()
  mkdirSync(dataDir, { recursive: true })
  const database = new Database(`${dataDir}/auth.db`)
  database.pragma("journal_mode = WAL")
  const options = {
    baseURL: appUrl,
    secret,
    database: { dialect: new SqliteDialect({ database }), type: "sqlite" },
    emailAndPassword: { enabled: true, minPasswordLength: 8 },
    telemetry: { enabled: false },
    plugins: [jwt()],
  } satisfies BetterAuthOptions
  await (await getMigrations(options)).runMigrations()
  return betterAuth(options)
}

/** Who is signed in, from the cookie that came with the request. */
export async function findSession(headers: Headers) {
  return (await auth()).api.getSession({ headers })
}

/** A token for Duly and whose it is, or null when nobody is signed in. */
export async function mintToken(headers: Headers): Promise<{ token: string; userId: string } | null> {
  const session = await findSession(headers)
  if (!session) return null
  const userId = session.user.id
  const { tokens, secret } = settings()
  if (tokens === "jwks") return { userId, token: (await (await auth()).api.getToken({ headers })).token }
  // The plugin cannot sign HS256, so this does. Duly has the same secret in its own BETTER_AUTH_SECRET.
  const token = await new SignJWT({ email: session.user.email, name: session.user.name })
    .setProtectedHeader({ alg: "HS256" })
    .setSubject(userId)
    .setIssuedAt()
    .setExpirationTime("15m")
    .sign(new TextEncoder().encode(secret))
  return { userId, token }
}
