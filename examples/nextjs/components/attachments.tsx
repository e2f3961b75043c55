"use client"
import type { components, DulyClient } from "@duly/client"
import { useState } from "react"
import { save } from "@/lib/download"
import { useHydrated } from "@/lib/hydrated"

type Attachment = components["schemas"]["AttachmentResponse"]

interface Props {
  duly: DulyClient
  taskId: string
  first: Attachment[]
  onFault: (error: unknown) => void
}

const sizeOf = ({ size }: Attachment) => (size < 1000 ? `${size} bytes` : `${(size / 1000).toFixed(1)} kB`)

export function Attachments({ duly, taskId, first, onFault }: Props) {
  const [files, setFiles] = useState(first)
  const [word, setWord] = useState("")
  const hydrated = useHydrated()
  const of = ({ id }: Attachment) => ({ path: { task_id: taskId, attachment_id: id } })

  async function run(now: string, work: () => Promise<string>) {
    setWord(now)
    try {
      setWord(await work())
    } catch (error) {
      setWord("")
      onFault(error)
    }
  }

  async function upload(file: File) {
    const { data } = await duly.POST("/api/v1/tasks/{task_id}/attachments", {
      params: { path: { task_id: taskId } },
      body: { file: file.name }, // for the types; what is sent is the form below
      bodySerializer: () => {
        const form = new FormData()
        form.append("file", file)
        return form
      },
    })
    setFiles((held) => [...held, data])
    return `Attached ${data.name}.`
  }

  async function download(file: Attachment) {
    const path = "/api/v1/tasks/{task_id}/attachments/{attachment_id}"
    const { data } = await duly.GET(path, { params: of(file), parseAs: "blob" })
    save(data as Blob, file.name)
    return `Downloaded ${file.name}.`
  }

  async function remove(file: Attachment) {
    await duly.DELETE("/api/v1/tasks/{task_id}/attachments/{attachment_id}", { params: of(file) })
    setFiles((held) => held.filter(({ id }) => id !== file.id))
    return `Deleted ${file.name}.`
  }

  return (
    <section className="card stack" aria-labelledby="files">
      <h2 id="files">Attachments</h2>
      {files.length > 0 && (
        <ul className="files">
          {files.map((file) => (
            <li key={file.id}>
              <span>{file.name}</span>
              <span className="quiet">{sizeOf(file)}</span>
              <button disabled={!hydrated} aria-label={`Download ${file.name}`} onClick={() => void run("", () => download(file))}>
                Download
              </button>
              <button className="plain" disabled={!hydrated} aria-label={`Delete ${file.name}`} onClick={() => void run("", () => remove(file))}>
                ✕
              </button>
            </li>
          ))}
        </ul>
      )}
      <label>
        Attach a file
        <input
          type="file"
          disabled={!hydrated}
          onChange={({ target }) => {
            const file = target.files?.[0]
            target.value = "" // so that the same file can be chosen again
            if (file) void run(`Sending ${file.name} …`, () => upload(file))
          }}
        />
      </label>
      <p role="status" className="quiet">
        {word}
      </p>
    </section>
  )
}
