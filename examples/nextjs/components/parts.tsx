"use client"
import Link from "next/link"
import { useCallback, useEffect, useState, useSyncExternalStore } from "react"
import { authClient } from "@/lib/auth-client"
import type { Person } from "@/lib/duly"
import { useHydrated } from "@/lib/hydrated"
import type { Connection } from "@/lib/use-live"

const WORDS: Record<Connection, string> = { connecting: "Connecting", live: "Live", away: "Offline" }

export function Header({ user, connection }: { user: Person; connection: Connection }) {
  const hydrated = useHydrated()
  async function signOut() {
    await authClient.signOut()
    window.location.assign("/sign-in")
  }
  return (
    <header className="bar">
      <Link href="/" className="brand">
        Tasks
      </Link>
      <span className={connection === "live" ? "live on" : "live"}>{WORDS[connection]}</span>
      <span className="quiet name">{user.name}</span>
      <button className="plain" disabled={!hydrated} onClick={signOut}>
        Sign out
      </button>
    </header>
  )
}

/** While the server is away: what still counts and what does not. Always in the page, so that it is read out. */
export function AwayBanner({ connection, retry }: { connection: Connection; retry: () => void }) {
  return (
    <div role="status">
      {connection === "away" && (
        <div className="banner bar">
          <p>
            <strong>The task server cannot be reached.</strong> You see what was there last. Changes cannot be saved until
            it is back; this page notices by itself.
          </p>
          <button onClick={retry}>Try now</button>
        </div>
      )}
    </div>
  )
}

export interface Notice {
  text: string
  isFault?: boolean
  action?: { label: string; run: () => void }
}

/** What is done and asks for nothing goes by itself. A fault, and what can be undone, stays until it is closed. */
export function useNotice() {
  const [notice, setNotice] = useState<Notice | null>(null)
  const dismiss = useCallback(() => setNotice(null), [])
  useEffect(() => {
    if (!notice || notice.isFault || notice.action) return
    const timer = setTimeout(dismiss, 6_000)
    return () => clearTimeout(timer)
  }, [notice, dismiss])
  return { notice, say: setNotice, dismiss }
}

export function NoticeBar({ notice, dismiss }: { notice: Notice | null; dismiss: () => void }) {
  const content = notice && (
    <div className="notice">
      <p>{notice.text}</p>
      {notice.action && <button onClick={notice.action.run}>{notice.action.label}</button>}
      <button aria-label="Close" onClick={dismiss}>
        ✕
      </button>
    </div>
  )
  return (
    <>
      <div role="status">{!notice?.isFault && content}</div>
      <div role="alert">{notice?.isFault && content}</div>
    </>
  )
}

const never = () => () => {}

/** A time in the person's own zone; the server, which does not know it, writes UTC first. */
export function Time({ value }: { value: string }) {
  const timeZone = useSyncExternalStore(never, () => undefined, () => "UTC")
  const format = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short", timeZone })
  return <time dateTime={value}>{format.format(new Date(value))}</time>
}
