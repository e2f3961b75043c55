"use client"
import { DulyError, type Change, type DulyClient } from "@duly/client"
import { useEffect, useEffectEvent, useRef, useState } from "react"
import { goToSignIn, isAway } from "./duly"

export type Connection = "connecting" | "live" | "away"

interface Live {
  /** The stream stands where nothing has been read yet: read now, so that nothing is missed in between. */
  onStart: () => void
  onChange: (change: Change) => void
}

/** Follows the changes of this person's tasks for as long as the page is open; comes back by itself where it broke off. */
export function useLive(duly: DulyClient, live: Live) {
  const [connection, setConnection] = useState<Connection>("connecting")
  const [round, setRound] = useState(0)
  const cursor = useRef<string | undefined>(undefined)
  const start = useEffectEvent(live.onStart)
  const take = useEffectEvent(live.onChange)

  useEffect(() => {
    const leave = new AbortController()
    const { signal } = leave
    const since = cursor.current === undefined ? {} : { since: cursor.current }
    const onReady = (place: string) => {
      setConnection("live")
      if (cursor.current === undefined) start()
      cursor.current = place
    }
    // A token that ended or a server that hands over is no outage: the next connection is on its way.
    const onCut = (reason: DulyError) => setConnection(isAway(reason) ? "away" : "connecting")

    async function follow() {
      try {
        for await (const change of duly.changes({ ...since, signal, onReady, onCut })) {
          cursor.current = change.cursor
          take(change)
        }
      } catch (error) {
        if (error instanceof DulyError && error.status === 401) return goToSignIn()
        // What the client cannot resume (an unknown cursor) begins anew, after a moment.
        cursor.current = undefined
        setConnection("away")
        setTimeout(() => signal.aborted || setRound((n) => n + 1), 5_000)
      }
    }
    void follow()
    return () => leave.abort()
  }, [duly, round])

  const retry = () => setRound((n) => n + 1)
  useEffect(() => {
    const again = () => setRound((n) => n + 1)
    window.addEventListener("online", again)
    return () => window.removeEventListener("online", again)
  }, [])

  return { connection, retry }
}
