"use client"
import type { DulyClient } from "@duly/client"
import { save } from "@/lib/download"
import { useHydrated } from "@/lib/hydrated"

const FORMATS = ["json", "csv", "ics"] as const

export function ExportButtons({ duly, onFault }: { duly: DulyClient; onFault: (error: unknown) => void }) {
  const hydrated = useHydrated()
  async function download(format: (typeof FORMATS)[number]) {
    try {
      const call = { params: { query: { format } }, parseAs: "blob" } as const
      const { data } = await duly.GET("/api/v1/tasks/export", call)
      save(data, `tasks.${format}`)
    } catch (error) {
      onFault(error)
    }
  }
  return (
    <section className="bar" aria-labelledby="export">
      <h2 id="export" className="quiet">
        Export all tasks
      </h2>
      <div className="actions">
        {FORMATS.map((format) => (
          <button key={format} disabled={!hydrated} onClick={() => void download(format)}>
            {format.toUpperCase()}
          </button>
        ))}
      </div>
    </section>
  )
}
