import { DulyError } from "@duly/client"
import { TaskBoard } from "@/components/task-board"
import { readFilter, toQuery } from "@/lib/filter"
import { connect } from "@/lib/server"

export default async function TasksPage({ searchParams }: PageProps<"/">) {
  const filter = readFilter(await searchParams)
  const { duly, dulyUrl, user } = await connect("/")
  const first = await duly
    .GET("/api/v1/tasks", { params: { query: toQuery(filter) } })
    .then(({ data }) => data)
    .catch((error: unknown) => {
      if (error instanceof DulyError) return null // the page says so, and reads the list when the server is back
      throw error
    })
  return <TaskBoard dulyUrl={dulyUrl} user={user} first={first} firstFilter={filter} />
}
