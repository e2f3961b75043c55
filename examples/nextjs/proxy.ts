import { NextResponse, type NextRequest } from "next/server"

/** A strict Content-Security-Policy with a new nonce for each page; Next puts the nonce into its own scripts. */
export function proxy(request: NextRequest) {
  const nonce = crypto.randomUUID()
  const development = process.env.NODE_ENV === "development"
  const policy = [
    "default-src 'none'",
    `script-src 'self' 'nonce-${nonce}' 'strict-dynamic'${development ? " 'unsafe-eval'" : ""}`,
    development ? "style-src 'self' 'unsafe-inline'" : "style-src 'self'",
    `connect-src 'self' ${process.env.DULY_URL ?? "http://localhost:8000"}${development ? " ws:" : ""}`,
    "img-src 'self' data:",
    development ? "font-src 'self'" : "font-src 'none'",
    "form-action 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
  ].join("; ")
  const headers = new Headers(request.headers)
  headers.set("Content-Security-Policy", policy)
  const response = NextResponse.next({ request: { headers } })
  response.headers.set("Content-Security-Policy", policy)
  response.headers.set("Referrer-Policy", "same-origin")
  response.headers.set("X-Content-Type-Options", "nosniff")
  return response
}

export const config = { matcher: "/((?!_next/static|api/|icon.svg).*)" }
