import type { Metadata } from "next"
import { headers } from "next/headers"
import { redirect } from "next/navigation"
import { SignIn } from "@/components/sign-in"
import { findSession } from "@/lib/auth"

export const metadata: Metadata = { title: "Sign in" }

/** Only a path of this app counts as the place to go back to. */
const ownPath = (next: unknown) => (typeof next === "string" && /^\/(?![/\\])/.test(next) ? next : "/")

export default async function SignInPage({ searchParams }: PageProps<"/sign-in">) {
  const { next } = await searchParams
  if (await findSession(await headers())) redirect(ownPath(next))
  return <SignIn next={ownPath(next)} />
}
