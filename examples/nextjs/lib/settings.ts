import "server-only"

/** Read at run time, so that one build serves every environment. */
export function settings() {
  const secret = process.env.BETTER_AUTH_SECRET
  if (!secret) throw new Error("BETTER_AUTH_SECRET is not set. Make one: openssl rand -base64 48")
  const dulyUrl = process.env.DULY_URL ?? "http://localhost:8000"
  return {
    secret,
    appUrl: process.env.BETTER_AUTH_URL ?? "http://localhost:3000",
    dulyUrl, // as the browser reaches it
    dulyInternalUrl: process.env.DULY_INTERNAL_URL ?? dulyUrl, // as this server reaches it
    tokens: process.env.DULY_TOKENS === "hs256" ? ("hs256" as const) : ("jwks" as const),
    dataDir: process.env.DATA_DIR ?? "data",
  }
}
