import type { Metadata, Viewport } from "next"
import "./globals.css"

export const metadata: Metadata = {
  title: { default: "Tasks", template: "%s · Tasks" },
  description: "A task app in front of Duly.",
}

export const viewport: Viewport = { colorScheme: "light dark" }

export default function RootLayout({ children }: { children: React.ReactNode }) {
  return (
    <html lang="en">
      <body>{children}</body>
    </html>
  )
}
