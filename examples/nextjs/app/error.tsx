"use client"

export default function Fault({ reset }: { reset: () => void }) {
  return (
    <main className="card narrow">
      <h1>Something went wrong</h1>
      <p className="quiet">The page could not be shown. Nothing of yours is lost.</p>
      <p>
        <button onClick={reset}>Try again</button>
      </p>
    </main>
  )
}
