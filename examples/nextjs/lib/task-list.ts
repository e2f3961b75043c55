import type { components, Task } from "@duly/client"

export type Page = components["schemas"]["TaskListResponse"]

/** An edit that the server has not answered yet. It is shown on top of what the server said; without it, that shows again. */
export interface Pending {
  key: string
  show: (tasks: Task[]) => Task[]
}

export interface TaskList {
  tasks: Task[]
  total: number
  next: string | null
  pending: Pending[]
}

export type Step =
  | { type: "read"; page: Page }
  | { type: "read more"; page: Page }
  | { type: "put"; task: Task; isNew: boolean }
  | { type: "drop"; id: string }
  | { type: "begin"; pending: Pending }
  | { type: "end"; key: string }

export function listOf(page: Page | null): TaskList {
  return { tasks: page?.items ?? [], total: page?.total ?? 0, next: page?.next_cursor ?? null, pending: [] }
}

/** What the person sees. */
export const shown = ({ tasks, pending }: TaskList) => pending.reduce((list, { show }) => show(list), tasks)

export function reduce(list: TaskList, step: Step): TaskList {
  switch (step.type) {
    case "read":
      return { ...listOf(step.page), pending: list.pending }
    case "read more": {
      const known = new Set(list.tasks.map((task) => task.id))
      const tasks = [...list.tasks, ...step.page.items.filter((task) => !known.has(task.id))]
      return { ...list, tasks, total: step.page.total, next: step.page.next_cursor }
    }
    case "put": {
      const held = list.tasks.find((task) => task.id === step.task.id)
      if (!held) return step.isNew ? { ...list, tasks: [step.task, ...list.tasks], total: list.total + 1 } : list
      // An answer and the stream tell of the same change, in any order: the higher version is the later one.
      if (held.version > step.task.version) return list
      return { ...list, tasks: list.tasks.map((task) => (task === held ? step.task : task)) }
    }
    case "drop": {
      const tasks = list.tasks.filter((task) => task.id !== step.id)
      return { ...list, tasks, total: list.total - (list.tasks.length - tasks.length) }
    }
    case "begin":
      return { ...list, pending: [...list.pending, step.pending] }
    case "end":
      return { ...list, pending: list.pending.filter(({ key }) => key !== step.key) }
  }
}
