"use client"
import { useState, type FormEvent } from "react"
import { authClient } from "@/lib/auth-client"
import { useHydrated } from "@/lib/hydrated"

const AWAY = "The sign-in server does not answer. Try again in a moment."

/** Sign in, or sign up with the same fields and a name. */
export function SignIn({ next }: { next: string }) {
  const [isNew, setNew] = useState(false)
  const [fault, setFault] = useState("")
  const [busy, setBusy] = useState(false)
  const hydrated = useHydrated()

  async function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault()
    setBusy(true)
    setFault("")
    const data = new FormData(event.currentTarget)
    const [name, email, password] = ["name", "email", "password"].map((field) => String(data.get(field) ?? ""))
    try {
      const { error } = await (isNew
        ? authClient.signUp.email({ name: name!, email: email!, password: password! })
        : authClient.signIn.email({ email: email!, password: password! }))
      // A full load, so that the server renders the first list for the person who is signed in now.
      if (!error) return window.location.assign(next)
      setFault(error.status === 429 ? "Too many tries. Wait a few seconds, then try again." : (error.message ?? AWAY))
    } catch {
      setFault(AWAY)
    }
    setBusy(false)
  }

  return (
    <main className="card narrow">
      <p className="brand">Tasks</p>
      <h1>{isNew ? "Create your account" : "Sign in"}</h1>
      <form onSubmit={submit} method="post">
        <fieldset disabled={!hydrated || busy}>
          {isNew && (
            <label>
              Name
              <input name="name" autoComplete="name" required maxLength={100} />
            </label>
          )}
          <label>
            E-mail
            <input name="email" type="email" autoComplete="email" required />
          </label>
          <label>
            Password
            <input
              name="password"
              type="password"
              required
              minLength={8}
              autoComplete={isNew ? "new-password" : "current-password"}
              aria-describedby={fault ? "fault" : undefined}
            />
          </label>
          <p id="fault" role="alert" className="fault">
            {fault}
          </p>
          <button className="primary">{isNew ? "Create account" : "Sign in"}</button>
        </fieldset>
      </form>
      <p className="quiet">
        {isNew ? "You have an account?" : "You are new here?"}{" "}
        <button type="button" className="link" disabled={!hydrated} onClick={() => (setNew(!isNew), setFault(""))}>
          {isNew ? "Sign in instead" : "Create an account"}
        </button>
      </p>
    </main>
  )
}
