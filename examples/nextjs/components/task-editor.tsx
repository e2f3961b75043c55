"use client"
import { DulyError, StaleTaskError, type Change, type components, type Task } from "@duly/client"
import Link from "next/link"
import { useMemo, useState, type FormEvent } from "react"
import { changedFields, toDraft, type Draft } from "@/lib/drafts"
import { createBrowserClient, explain, fieldFaults, goToSignIn, type Person } from "@/lib/duly"
import { useHydrated } from "@/lib/hydrated"
import { useLive } from "@/lib/use-live"
import { Attachments } from "./attachments"
import { ConflictDialog } from "./conflict-dialog"
import { AwayBanner, Header, NoticeBar, Time, useNotice } from "./parts"
import { DescriptionField, PlanFields, TitleField, useFocusOnFault } from "./task-fields"

interface Props {
  dulyUrl: string
  user: Person
  first: Task
  firstFiles: components["schemas"]["AttachmentResponse"][]
}

const isSame = (draft: Draft, base: Draft) => Object.keys(changedFields(draft, base)).length === 0

/** One task. A save names the version that the form began with, so that nobody's edit is overwritten unseen. */
export function TaskEditor({ dulyUrl, user, first, firstFiles }: Props) {
  const duly = useMemo(() => createBrowserClient(dulyUrl, user), [dulyUrl, user])
  const [base, setBase] = useState(first)
  const [draft, setDraft] = useState(() => toDraft(first))
  const [theirs, setTheirs] = useState<Task | null>(null) // newer than `base`, while the form holds other words
  const [isAsking, setAsking] = useState(false)
  const [isGone, setGone] = useState(false)
  const [isBusy, setBusy] = useState(false)
  const [faults, setFaults] = useState<Record<string, string>>({})
  const { notice, say, dismiss } = useNotice()
  const form = useFocusOnFault(faults)
  const hydrated = useHydrated()
  const params = { path: { task_id: base.id } }

  function tell(error: unknown) {
    if (error instanceof DulyError && error.status === 401) goToSignIn()
    else say({ text: explain(error), isFault: true })
  }

  function take(task: Task) {
    setBase(task)
    setDraft(toDraft(task))
    setTheirs(null)
    setAsking(false)
    setFaults({})
  }

  /** What another window or device has made of this task. */
  function meet(task: Task) {
    setGone(false)
    if (task.version <= base.version || isBusy) return
    if (isSame(draft, toDraft(base))) take(task)
    else setTheirs(task)
  }

  async function read() {
    try {
      meet((await duly.GET("/api/v1/tasks/{task_id}", { params })).data)
    } catch (error) {
      if (error instanceof DulyError && error.status === 404) setGone(true)
      else tell(error)
    }
  }

  function onChange({ type, task_id, task }: Change) {
    if (task_id !== base.id) return
    if (type === "task.deleted" || !task) setGone(true)
    else meet(task)
  }

  const { connection, retry } = useLive(duly, { onStart: () => void read(), onChange })

  async function save(over: Task) {
    setBusy(true)
    setAsking(false)
    setFaults({})
    try {
      const header = { "If-Match": `"${over.version}"` } as const
      const body = changedFields(draft, toDraft(base))
      const { data } = await duly.PATCH("/api/v1/tasks/{task_id}", { params: { ...params, header }, body })
      take(data)
      say({ text: "Saved." })
    } catch (error) {
      if (error instanceof StaleTaskError) await compare(error.current).catch(tell)
      else refuse(error)
    }
    setBusy(false)
  }

  async function compare(current: () => Promise<{ task: Task }>) {
    const { task } = await current()
    // The answer to an earlier try was lost, and the edit is there already.
    if (isSame(draft, toDraft(task))) return take(task)
    setTheirs(task)
    setAsking(true)
  }

  function refuse(error: unknown) {
    const found = fieldFaults(error)
    setFaults(found)
    if (Object.keys(found).length === 0) tell(error)
  }

  function submit(event: FormEvent) {
    event.preventDefault()
    void save(base)
  }

  const fields = { draft, faults, onChange: setDraft }
  return (
    <div className="page">
      <Header user={user} connection={connection} />
      <AwayBanner connection={connection} retry={retry} />
      <NoticeBar notice={notice} dismiss={dismiss} />
      <main className="stack">
        <p>
          <Link href="/">← All tasks</Link>
        </p>
        <h1>Edit task</h1>
        <div role="status">
          {isGone && <p className="banner">This task has been deleted in another window.</p>}
          {!isGone && theirs && !isAsking && (
            <p className="banner">This task has changed in another window. When you save, you see both and choose.</p>
          )}
        </div>
        <form className="card" ref={form} onSubmit={submit} aria-label="Task">
          <fieldset disabled={!hydrated || isBusy || isGone}>
            <TitleField {...fields} />
            <DescriptionField {...fields} />
            <PlanFields {...fields} />
            <div className="bar">
              <p className="quiet">
                {base.completed ? "Completed" : "Open"}, changed <Time value={base.updated_at} />
              </p>
              <button className="primary" disabled={isSame(draft, toDraft(base))}>
                Save
              </button>
            </div>
          </fieldset>
        </form>
        <Attachments duly={duly} taskId={base.id} first={firstFiles} onFault={tell} />
      </main>
      {isAsking && theirs && (
        <ConflictDialog
          mine={draft}
          theirs={toDraft(theirs)}
          onMine={() => void save(theirs)}
          onTheirs={() => (take(theirs), say({ text: "The other version was kept." }))}
          onClose={() => setAsking(false)}
        />
      )}
    </div>
  )
}
