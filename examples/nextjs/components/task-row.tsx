"use client"
import type { Task } from "@duly/client"
import Link from "next/link"
import { useHydrated } from "@/lib/hydrated"
import { Time } from "./parts"

interface Props {
  task: Task
  onComplete: (completed: boolean) => void
  onDelete: () => void
  onTag: (tag: string) => void
}

export function TaskRow({ task, onComplete, onDelete, onTag }: Props) {
  const isSaved = task.version > 0
  const hydrated = useHydrated()
  const isLate = hydrated && !task.completed && task.due_date !== null && new Date(task.due_date) < new Date()
  const state = [task.completed && "done", !isSaved && "unsaved"].filter(Boolean).join(" ")
  return (
    <li className={state}>
      <input
        type="checkbox"
        aria-label={`Completed: ${task.title}`}
        checked={task.completed}
        disabled={!isSaved || !hydrated}
        onChange={(event) => onComplete(event.target.checked)}
      />
      <div className="what">
        {isSaved ? <Link href={`/tasks/${task.id}`} prefetch={false}>{task.title}</Link> : <span>{task.title}</span>}
        <div className="facts">
          {task.priority !== "medium" && <span className={task.priority}>{task.priority}</span>}
          {task.due_date && (
            <span className={isLate ? "late" : undefined}>
              {isLate ? "overdue since " : "due "}
              <Time value={task.due_date} />
            </span>
          )}
          {task.tags.map((tag) => (
            <button key={tag} className="chip" disabled={!hydrated} aria-label={`Show the tag ${tag}`} onClick={() => onTag(tag)}>
              {tag}
            </button>
          ))}
          {!isSaved && <span>saving …</span>}
        </div>
      </div>
      <button className="plain" disabled={!isSaved || !hydrated} aria-label={`Delete: ${task.title}`} onClick={onDelete}>
        ✕
      </button>
    </li>
  )
}
