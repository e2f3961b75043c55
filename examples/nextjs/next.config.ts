import path from "node:path"
import type { NextConfig } from "next"

const config: NextConfig = {
  poweredByHeader: false,
  // The client is linked from this repository, so the bundler has to look above this folder. A copy of the example that
  // installs the client as a package needs no such line.
  turbopack: { root: path.join(import.meta.dirname, "../..") },
  serverExternalPackages: ["libsql"], // a native module stays outside of the bundle
}

export default config
