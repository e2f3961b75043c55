"use client"
import { useRouter } from "next/navigation"
import { useEffect } from "react"

/** The page in place of one that the task server did not answer for; it looks again by itself. */
export function Away() {
  const router = useRouter()
  useEffect(() => {
    const timer = setInterval(() => router.refresh(), 3_000)
    return () => clearInterval(timer)
  }, [router])
  return (
    <main className="card narrow">
      <h1>One moment</h1>
      <p className="quiet" role="status">
        The task server does not answer. This page shows as soon as it is back.
      </p>
      <p>
        <a href="/">Go to your tasks</a>
      </p>
    </main>
  )
}
