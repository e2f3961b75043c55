"use client"
import { PRIORITIES } from "@/lib/drafts"
import { NO_FILTER, type Filter } from "@/lib/filter"
import { useHydrated } from "@/lib/hydrated"

/** The closed sets come from select boxes, so each value is one of them. */
export function Filters({ filter, onChange }: { filter: Filter; onChange: (filter: Filter) => void }) {
  const hydrated = useHydrated()
  const bind = (name: keyof Filter) => ({
    name,
    value: filter[name],
    onChange: ({ target }: { target: { value: string } }) => onChange({ ...filter, [name]: target.value } as Filter),
  })
  return (
    <form role="search" className="filters" onSubmit={(event) => event.preventDefault()}>
      <fieldset disabled={!hydrated}>
        <div className="row">
          <label>
            Search
            <input {...bind("search")} type="search" maxLength={200} />
          </label>
          <label>
            Show
            <select {...bind("status")}>
              <option value="all">all</option>
              <option value="pending">open</option>
              <option value="completed">completed</option>
            </select>
          </label>
          <label>
            Priority
            <select {...bind("priority")}>
              <option value="">any</option>
              {PRIORITIES.map((priority) => (
                <option key={priority}>{priority}</option>
              ))}
            </select>
          </label>
          <label>
            Order
            <select {...bind("sort")}>
              <option value="-created_at">newest first</option>
              <option value="due_date">due first</option>
              <option value="-priority">most urgent first</option>
              <option value="title">by title</option>
            </select>
          </label>
        </div>
        {filter.tag && (
          <p className="actions">
            <button type="button" className="chip" onClick={() => onChange({ ...filter, tag: NO_FILTER.tag })}>
              Tag: {filter.tag} <span aria-hidden="true">✕</span>
              <span className="hidden">, show all tags</span>
            </button>
          </p>
        )}
      </fieldset>
    </form>
  )
}
