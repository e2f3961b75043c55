import { createDulyClient, DulyError, NETWORK_FAILURE, tokenSource } from "@duly/client"

export interface Person {
  id: string
  name: string
  email: string
}

export function goToSignIn() {
  window.location.assign(`/sign-in?next=${encodeURIComponent(window.location.pathname)}`)
}

/** A client for this page. Its tokens come from this app, which knows who is signed in by the cookie. */
export function createBrowserClient(baseUrl: string, user: Person) {
  const auth = tokenSource(async () => {
    const answer = await fetch("/api/token", { cache: "no-store" })
    if (answer.status === 401) return null
    if (!answer.ok) throw new DulyError({ status: answer.status, code: "NO_TOKEN", detail: "The sign-in server fails." })
    const { token, userId } = (await answer.json()) as { token: string; userId: string }
    // Somebody else signed in from another window: this page shows the wrong person's tasks.
    if (userId !== user.id) window.location.reload()
    return token
  })
  return createDulyClient({ baseUrl, auth, retry: { attempts: 3, attemptMilliseconds: 20_000 } })
}

/** What a failed call is to the person: one sentence that says what to do. */
export function explain(error: unknown): string {
  if (!(error instanceof DulyError)) return "The server cannot be reached. Nothing was changed."
  const wait = error.retryAfter === null ? "in a moment" : `in ${Math.ceil(error.retryAfter)} seconds`
  switch (error.status) {
    case 0:
      return error.attempts > 1
        ? "No answer from the task server. If the change was made after all, it will show here."
        : "The task server cannot be reached. Nothing was changed."
    case 403:
      return `You are not allowed to do this. ${error.detail}`
    case 404:
      return "This is not there any more. It may have been deleted in another window."
    case 413:
      return `This is too large. ${error.detail}`
    case 429:
      return `Too many requests. Try again ${wait}.`
    case 503:
      return `The task server is not available right now. Try again ${wait}.`
    case 504:
      return "The task server took too long and gave up. Nothing was changed."
    case 500:
      return `The task server failed. If it goes on, tell us this number: ${error.requestId ?? "unknown"}.`
    default:
      return error.detail
  }
}

/** The message for each field of a 422, by the field's name. */
export function fieldFaults(error: unknown): Record<string, string> {
  if (!(error instanceof DulyError) || error.status !== 422) return {}
  return Object.fromEntries(error.errors.map(({ field, message }) => [field.replace(/^body\./, "").split(".")[0], message]))
}

/** Whether nothing but the way to the server is at fault, so that it may be there again soon. */
export const isAway = (error: unknown) =>
  !(error instanceof DulyError) || error.code === NETWORK_FAILURE || [502, 503].includes(error.status)
