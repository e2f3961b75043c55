"use client"
import { useEffect, useRef, type ReactNode } from "react"
import { PRIORITIES, type Draft, type Priority } from "@/lib/drafts"

export interface FieldProps {
  draft: Draft
  /** What the server said about a field, by the field's name. */
  faults: Record<string, string>
  onChange: (draft: Draft) => void
}

/** What a control needs to show its part of the draft and to change it. */
function bind({ draft, faults, onChange }: FieldProps, name: keyof Draft, field: string = name) {
  return {
    name,
    value: draft[name],
    onChange: ({ target }: { target: { value: string } }) => onChange({ ...draft, [name]: target.value as Priority }),
    "aria-invalid": field in faults,
    "aria-describedby": field in faults ? `fault-${field}` : undefined,
  }
}

function Field({ label, fault, field, children }: { label: string; fault: string | undefined; field: string; children: ReactNode }) {
  return (
    <div>
      <label>
        {label}
        {children}
      </label>
      <p className="fault" id={`fault-${field}`}>
        {fault}
      </p>
    </div>
  )
}

export function TitleField(props: FieldProps) {
  return (
    <Field label="Title" field="title" fault={props.faults.title}>
      <input {...bind(props, "title")} required maxLength={200} autoComplete="off" />
    </Field>
  )
}

export function DescriptionField(props: FieldProps) {
  return (
    <Field label="Description" field="description" fault={props.faults.description}>
      <textarea {...bind(props, "description")} maxLength={2000} />
    </Field>
  )
}

export function PlanFields(props: FieldProps) {
  return (
    <div className="row">
      <label>
        Priority
        <select {...bind(props, "priority")}>
          {PRIORITIES.map((priority) => (
            <option key={priority}>{priority}</option>
          ))}
        </select>
      </label>
      <Field label="Due" field="due_date" fault={props.faults.due_date}>
        <input {...bind(props, "due", "due_date")} type="datetime-local" />
      </Field>
      <Field label="Tags, by commas" field="tags" fault={props.faults.tags}>
        <input {...bind(props, "tags")} autoComplete="off" />
      </Field>
    </div>
  )
}

/** For a form: puts the person on the first field that the server refused. */
export function useFocusOnFault(faults: FieldProps["faults"]) {
  const form = useRef<HTMLFormElement>(null)
  useEffect(() => form.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus(), [faults])
  return form
}
