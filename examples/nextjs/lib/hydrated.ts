"use client"
import { useSyncExternalStore } from "react"

const nothing = () => () => {}

/** False on the server and until the page's script runs: forms stay disabled so that no early submit is lost. */
export const useHydrated = () => useSyncExternalStore(nothing, () => true, () => false)
