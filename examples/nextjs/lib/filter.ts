import { PRIORITIES, type Priority } from "./drafts"

const STATUSES = ["all", "pending", "completed"] as const
const SORTS = ["-created_at", "due_date", "-priority", "title"] as const

/** What the list shows, as the address of the page has it. */
export interface Filter {
  search: string
  status: (typeof STATUSES)[number]
  priority: Priority | ""
  tag: string
  sort: (typeof SORTS)[number]
}

export const NO_FILTER: Filter = { search: "", status: "all", priority: "", tag: "", sort: "-created_at" }

const oneOf = <T extends string>(values: readonly T[], value: unknown, otherwise: T) =>
  values.find((known) => known === value) ?? otherwise

/** Reads an address that anybody can write: what is unknown falls back. */
export function readFilter(params: Record<string, string | string[] | undefined>): Filter {
  const text = (name: string, most: number) => String(params[name] ?? "").trim().slice(0, most)
  return {
    search: text("search", 200),
    status: oneOf(STATUSES, params.status, "all"),
    priority: oneOf<Priority | "">(PRIORITIES, params.priority, ""),
    tag: text("tag", 50),
    sort: oneOf(SORTS, params.sort, "-created_at"),
  }
}

/** The query of a call: only what differs from showing everything. */
export function toQuery(filter: Filter): Partial<Filter> & { priority?: Priority } {
  const set = Object.entries(filter).map(([name, value]) => [name, value.trim()])
  return Object.fromEntries(set.filter(([name, value]) => value !== NO_FILTER[name as keyof Filter]))
}
