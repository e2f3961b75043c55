"use client"
import { useState, type FormEvent } from "react"
import { EMPTY, type Draft } from "@/lib/drafts"
import { useHydrated } from "@/lib/hydrated"
import { PlanFields, TitleField, useFocusOnFault } from "./task-fields"

/** `onAdd` answers with what is wrong, by field; nothing else is said here. */
export function AddTask({ onAdd }: { onAdd: (draft: Draft) => Promise<Record<string, string> | null> }) {
  const [draft, setDraft] = useState(EMPTY)
  const [faults, setFaults] = useState<Record<string, string>>({})
  const [isOpen, setOpen] = useState(false)
  const form = useFocusOnFault(faults)
  const hydrated = useHydrated()

  async function submit(event: FormEvent) {
    event.preventDefault()
    setDraft(EMPTY)
    setFaults({})
    form.current?.querySelector("input")?.focus()
    const refused = await onAdd(draft)
    if (!refused) return
    setDraft((now) => (now === EMPTY ? draft : now)) // unless the person has begun the next one
    setFaults(refused)
  }

  const fields = { draft, faults, onChange: setDraft }
  const isPlanAtFault = "tags" in faults || "due_date" in faults
  return (
    <form className="card" ref={form} onSubmit={submit} aria-label="New task">
      <fieldset disabled={!hydrated}>
        <div className="wide-first">
          <TitleField {...fields} />
          <button className="primary">Add task</button>
        </div>
        <details open={isOpen || isPlanAtFault} onToggle={(event) => setOpen(event.currentTarget.open)}>
          <summary>Priority, due date, tags</summary>
          <PlanFields {...fields} />
        </details>
      </fieldset>
    </form>
  )
}
