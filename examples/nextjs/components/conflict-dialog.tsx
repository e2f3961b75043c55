"use client"
import { useEffect, useRef } from "react"
import type { Draft } from "@/lib/drafts"

interface Props {
  mine: Draft
  theirs: Draft
  onMine: () => void
  onTheirs: () => void
  onClose: () => void
}

const NAMES: Record<keyof Draft, string> = {
  title: "Title",
  description: "Description",
  priority: "Priority",
  due: "Due",
  tags: "Tags",
}

/** Both versions of a task that two people changed at once, and the choice. Escape goes back to the form. */
export function ConflictDialog({ mine, theirs, onMine, onTheirs, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null)
  const heading = useRef<HTMLHeadingElement>(null)
  useEffect(() => {
    dialog.current?.showModal()
    heading.current?.focus() // not the first button: on a phone that would scroll past what there is to read
  }, [])
  const fields = (Object.keys(NAMES) as (keyof Draft)[]).filter((name) => mine[name] || theirs[name])
  const version = (heading: string, draft: Draft) => (
    <section aria-label={heading}>
      <h2>{heading}</h2>
      <dl>
        {fields.map((name) => (
          <div key={name}>
            <dt>{NAMES[name]}</dt>
            <dd className={mine[name] === theirs[name] ? undefined : "differs"}>{(name === "due" ? draft.due.replace("T", " ") : draft[name]) || "–"}</dd>
          </div>
        ))}
      </dl>
    </section>
  )
  return (
    <dialog ref={dialog} aria-labelledby="conflict" onClose={onClose}>
      <div className="stack">
        <h1 id="conflict" ref={heading} tabIndex={-1}>Somebody changed this task before you</h1>
        <p className="quiet">
          Nothing was overwritten. If you keep yours, only the fields that you changed replace the saved ones.
        </p>
        <div className="versions">
          {version("Saved now", theirs)}
          {version("Yours", mine)}
        </div>
        <div className="actions">
          <button className="primary" onClick={onMine}>
            Keep mine
          </button>
          <button onClick={onTheirs}>Take the saved one</button>
          <button className="plain" onClick={onClose}>
            Go on editing
          </button>
        </div>
      </div>
    </dialog>
  )
}
