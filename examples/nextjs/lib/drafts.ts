import type { components, Task } from "@duly/client"

export type Priority = Task["priority"]
export type TaskFields = components["schemas"]["TaskCreate"]

/** A task as its form holds it. */
export interface Draft {
  title: string
  description: string
  priority: Priority
  due: string // as <input type="datetime-local"> writes it, in the person's time zone
  tags: string // by commas
}

export const PRIORITIES: readonly Priority[] = ["low", "medium", "high", "urgent"]
export const EMPTY: Draft = { title: "", description: "", priority: "medium", due: "", tags: "" }

export function toDraft(task: Task): Draft {
  const { title, description, priority, tags } = task
  return { title, description: description ?? "", priority, due: toLocal(task.due_date), tags: tags.join(", ") }
}

export function toFields(draft: Draft): TaskFields {
  return {
    title: draft.title,
    description: draft.description || null,
    priority: draft.priority,
    due_date: draft.due ? new Date(draft.due).toISOString() : null,
    tags: draft.tags.split(",").map((tag) => tag.trim()).filter(Boolean),
  }
}

/** The fields that differ from the task the person began with: what others changed meanwhile is left alone. */
export function changedFields(draft: Draft, base: Draft): Partial<TaskFields> {
  const fields = toFields(draft)
  const names = { title: "title", description: "description", priority: "priority", due: "due_date", tags: "tags" } as const
  const changed = (Object.keys(names) as (keyof Draft)[]).filter((name) => draft[name] !== base[name])
  return Object.fromEntries(changed.map((name) => [names[name], fields[names[name]]]))
}

function toLocal(time: string | null): string {
  if (!time) return ""
  const date = new Date(time)
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16)
}
