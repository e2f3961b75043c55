import { DulyError } from "@duly/client"
import type { Metadata } from "next"
import { notFound } from "next/navigation"
import { Away } from "@/components/away"
import { TaskEditor } from "@/components/task-editor"
import { connect } from "@/lib/server"

export const metadata: Metadata = { title: "Edit task" }

export default async function TaskPage({ params }: PageProps<"/tasks/[id]">) {
  const { id } = await params
  const { duly, dulyUrl, user } = await connect(`/tasks/${id}`)
  const path = { task_id: id }
  try {
    const [task, files] = await Promise.all([
      duly.GET("/api/v1/tasks/{task_id}", { params: { path } }),
      duly.GET("/api/v1/tasks/{task_id}/attachments", { params: { path, query: { limit: 100 } } }),
    ])
    return <TaskEditor dulyUrl={dulyUrl} user={user} first={task.data} firstFiles={files.data.items} />
  } catch (error) {
    if (!(error instanceof DulyError)) throw error
    // 422: this can be no task's id. Other people's tasks are 404 like those that never were.
    if (error.status === 404 || error.status === 422) notFound()
    return <Away />
  }
}
