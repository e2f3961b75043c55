import { mintToken } from "@/lib/auth"

/** The browser's way to a token for Duly: same origin, by the session cookie. */
export async function GET(request: Request) {
  const minted = await mintToken(request.headers)
  const headers = { "Cache-Control": "no-store" }
  return minted
    ? Response.json(minted, { headers })
    : Response.json({ message: "Not signed in" }, { status: 401, headers })
}
