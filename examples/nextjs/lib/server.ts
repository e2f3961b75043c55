import "server-only"
import { createDulyClient, tokenSource } from "@duly/client"
import { headers } from "next/headers"
import { redirect } from "next/navigation"
import { findSession, mintToken } from "./auth"
import { settings } from "./settings"

/** Who is signed in and a client that acts for them; whoever is not goes to the sign-in page and comes back to `path`. */
export async function connect(path: string) {
  const received = await headers()
  const session = await findSession(received)
  if (!session) redirect(`/sign-in?next=${encodeURIComponent(path)}`)
  const { dulyUrl, dulyInternalUrl } = settings()
  const duly = createDulyClient({
    baseUrl: dulyInternalUrl,
    auth: tokenSource(async () => (await mintToken(received))?.token ?? null),
    retry: { attempts: 1, attemptMilliseconds: 5_000 }, // the page is not held up: the browser tries again
  })
  const { id, name, email } = session.user
  return { duly, dulyUrl, user: { id, name, email } }
}
