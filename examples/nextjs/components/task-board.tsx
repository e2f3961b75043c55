"use client"
import { DulyError, type Change, type Task } from "@duly/client"
import { useEffect, useMemo, useReducer, useRef, useState } from "react"
import { toFields, type Draft } from "@/lib/drafts"
import { createBrowserClient, explain, fieldFaults, goToSignIn, type Person } from "@/lib/duly"
import { NO_FILTER, toQuery, type Filter } from "@/lib/filter"
import { listOf, reduce, shown, type Page, type Pending, type Step } from "@/lib/task-list"
import { useLive } from "@/lib/use-live"
import { AddTask } from "./add-task"
import { ExportButtons } from "./export-buttons"
import { Filters } from "./filters"
import { AwayBanner, Header, NoticeBar, useNotice } from "./parts"
import { TaskRow } from "./task-row"

interface Props {
  dulyUrl: string
  user: Person
  first: Page | null
  firstFilter: Filter
}

/** The list. What the person does shows at once and is taken back, with a message, when the server refuses it. */
export function TaskBoard({ dulyUrl, user, first, firstFilter }: Props) {
  const duly = useMemo(() => createBrowserClient(dulyUrl, user), [dulyUrl, user])
  const [list, step] = useReducer(reduce, first, listOf)
  const [isRead, setRead] = useState(first !== null)
  const [filter, setFilter] = useState(firstFilter)
  const { notice, say, dismiss } = useNotice()
  const heading = useRef<HTMLHeadingElement>(null)
  const reading = useRef<AbortController>(null)
  const isPlain = Object.keys(toQuery(filter)).length === 0

  function tell(error: unknown) {
    if (error instanceof DulyError && error.status === 401) goToSignIn()
    else say({ text: explain(error), isFault: true })
  }

  async function read(cursor?: string) {
    reading.current?.abort() // an older answer must not come after this one
    const mine = (reading.current = new AbortController())
    const { signal } = mine
    try {
      const query = { ...toQuery(filter), ...(cursor && { cursor }) }
      const { data } = await duly.GET("/api/v1/tasks", { params: { query }, signal })
      if (signal.aborted) return
      step({ type: cursor ? "read more" : "read", page: data })
      setRead(true)
    } catch (error) {
      if (!signal.aborted) tell(error)
    } finally {
      if (reading.current === mine) reading.current = null
    }
  }

  /** Shows the edit at once, sends it, and keeps or drops it by the answer. */
  async function attempt<T>(show: Pending["show"], call: () => Promise<T>, settle: (answer: T) => Step) {
    const key = crypto.randomUUID()
    step({ type: "begin", pending: { key, show } })
    try {
      step(settle(await call()))
    } finally {
      step({ type: "end", key })
    }
  }

  async function add(draft: Draft) {
    const fields = toFields(draft)
    const now = new Date().toISOString()
    const unsaved: Task = {
      id: `unsaved-${now}`, user_id: user.id, title: draft.title, description: null, completed: false, completed_at: null,
      priority: draft.priority, due_date: fields.due_date ?? null, tags: fields.tags ?? [], version: 0,
      created_at: now, updated_at: now,
    } // prettier-ignore
    const before = new Set(list.tasks.map(({ id }) => id))
    // The stream may bring the task before the call is answered: then it is shown once, as the server has it.
    const kept = draft.title.trim().normalize() // as Duly keeps it
    const hasArrived = (tasks: Task[]) => tasks.some(({ id, title }) => !before.has(id) && title === kept)
    try {
      await attempt(
        (tasks) => (hasArrived(tasks) ? tasks : [unsaved, ...tasks]),
        () => duly.POST("/api/v1/tasks", { body: fields }),
        ({ data }) => ({ type: "put", task: data, isNew: true }),
      )
      say({ text: `Added “${draft.title}”.` })
      return null
    } catch (error) {
      const faults = fieldFaults(error)
      if (Object.keys(faults).length === 0) tell(error)
      return faults
    }
  }

  function complete(task: Task, completed: boolean) {
    void attempt(
      (tasks) => tasks.map((other) => (other.id === task.id ? { ...other, completed } : other)),
      () => duly.PATCH("/api/v1/tasks/{task_id}/complete", at(task, { completed })),
      ({ data }) => ({ type: "put", task: data, isNew: false }),
    ).catch((error: unknown) => settleAbsence(task, error))
  }

  function remove(task: Task) {
    heading.current?.focus() // the row and its button are about to go
    attempt(
      (tasks) => tasks.filter(({ id }) => id !== task.id),
      () => duly.DELETE("/api/v1/tasks/{task_id}", { params: { path: { task_id: task.id } } }),
      () => ({ type: "drop", id: task.id }),
    ).then(
      () => say({ text: `Deleted “${task.title}”.`, action: { label: "Undo", run: () => void restore(task) } }),
      (error: unknown) => settleAbsence(task, error),
    )
  }

  async function restore(task: Task) {
    dismiss()
    heading.current?.focus()
    try {
      const { data } = await duly.POST("/api/v1/tasks/{task_id}/restore", { params: { path: { task_id: task.id } } })
      step({ type: "put", task: data, isNew: true })
      void read() // puts it into its own place
      say({ text: `“${task.title}” is back.` })
    } catch (error) {
      tell(error)
    }
  }

  function settleAbsence(task: Task, error: unknown) {
    if (error instanceof DulyError && error.status === 404) step({ type: "drop", id: task.id })
    tell(error)
  }

  function onChange({ type, task_id, task }: Change) {
    if (type === "task.deleted" || !task) step({ type: "drop", id: task_id })
    else step({ type: "put", task, isNew: isPlain && (type === "task.created" || type === "task.restored") })
    // Whether it belongs into a filtered list, and where, is for the server to say; and what is being read may be older.
    if (!isPlain || reading.current) void read()
  }

  const { connection, retry } = useLive(duly, { onStart: () => void read(), onChange })

  const isFirst = useRef(true)
  useEffect(() => {
    if (isFirst.current) return void (isFirst.current = false) // the server has rendered this one
    const query = new URLSearchParams(toQuery(filter)).toString()
    window.history.replaceState(null, "", query ? `/?${query}` : "/")
    const timer = setTimeout(() => void read(), 250)
    return () => clearTimeout(timer)
    // eslint-disable-next-line react-hooks/exhaustive-deps -- it follows the filter alone
  }, [filter])

  const tasks = shown(list)
  return (
    <div className="page">
      <Header user={user} connection={connection} />
      <AwayBanner connection={connection} retry={retry} />
      <NoticeBar notice={notice} dismiss={dismiss} />
      <main className="stack">
        <h1 ref={heading} tabIndex={-1}>
          Your tasks
        </h1>
        <AddTask onAdd={add} />
        <Filters filter={filter} onChange={setFilter} />
        <p role="status" className="quiet">
          {isRead ? `${list.total} ${list.total === 1 ? "task" : "tasks"}${isPlain ? "" : " found"}` : "Reading …"}
        </p>
        {tasks.length > 0 ? (
          <ul className="card tasks" aria-label="Tasks">
            {tasks.map((task) => (
              <TaskRow
                key={task.id}
                task={task}
                onComplete={(completed) => complete(task, completed)}
                onDelete={() => remove(task)}
                onTag={(tag) => setFilter({ ...NO_FILTER, tag })}
              />
            ))}
          </ul>
        ) : (
          isRead && <p className="card empty">{isPlain ? "Nothing to do. Add your first task above." : "No task fits."}</p>
        )}
        {list.next && <button onClick={() => void read(list.next ?? undefined)}>Show more</button>}
        <ExportButtons duly={duly} onFault={tell} />
      </main>
    </div>
  )
}

/** The address of a task's completion and the body that sets it. */
function at(task: Task, body: { completed: boolean }) {
  return { params: { path: { task_id: task.id } }, body }
}
