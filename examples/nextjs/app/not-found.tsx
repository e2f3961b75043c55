import { headers } from "next/headers"
import Link from "next/link"

export default async function NotFound() {
  await headers() // rendered for each request, so that the nonce of the policy is in it
  return (
    <main className="card narrow">
      <h1>Not found</h1>
      <p className="quiet">There is no such page, or it is not yours.</p>
      <p>
        <Link href="/">Go to your tasks</Link>
      </p>
    </main>
  )
}
