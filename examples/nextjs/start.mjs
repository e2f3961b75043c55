// Builds what has changed, starts Duly and this app, and ends both together: `make example`, or node start.mjs [--build].
import { spawn, spawnSync } from "node:child_process"
import { createHash, randomBytes } from "node:crypto"
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import path from "node:path"

const [major, minor] = process.versions.node.split(".").map(Number)
if (major < 20 || (major === 20 && minor < 19)) giveUp(`The example needs Node 20.19 or newer, and this is ${process.versions.node}: https://nodejs.org`)

const here = import.meta.dirname
const root = path.join(here, "../..")
const client = path.join(root, "clients/typescript")
const { APP_PORT = "3000", DULY_PORT = "8000", PATH, HOME, DULY_TOKENS = "jwks" } = process.env
const quiet = { NEXT_TELEMETRY_DISABLED: "1" }

function giveUp(message) {
  console.error(message)
  process.exit(1)
}

/** Changes with the name and content of every file; of a folder all count that are not made by a tool. */
function digest(sources) {
  const made = new Set(["node_modules", ".next", "data", "dist", "next-env.d.ts", "tsconfig.tsbuildinfo"])
  const hash = createHash("sha256")
  const add = (file) => hash.update(file).update("\0").update(readFileSync(file)).update("\0")
  for (const source of sources) {
    if (statSync(source).isFile()) add(source)
    else
      for (const entry of readdirSync(source, { recursive: true, withFileTypes: true })) {
        const file = path.join(entry.parentPath, entry.name)
        if (entry.isFile() && !path.relative(source, file).split(path.sep).some((part) => made.has(part))) add(file)
      }
  }
  return hash.digest("hex")
}

/** Runs npm when the sources differ from those of the last time, which the file `stamp` remembers. */
function whenChanged(folder, stamp, sources, what, ...args) {
  const file = path.join(folder, stamp)
  const now = digest(sources)
  if (existsSync(file) && readFileSync(file, "utf8") === now) return
  console.log(what)
  const done = spawnSync("npm", args, { cwd: folder, stdio: "inherit", env: { ...process.env, ...quiet } })
  if (done.status !== 0) giveUp(`npm ${args.join(" ")} failed in ${path.relative(root, folder)}`)
  writeFileSync(file, now)
}

function build() {
  const install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
  for (const folder of [client, here])
    whenChanged(folder, "node_modules/.installed", [path.join(folder, "package-lock.json")], "Installing packages …", ...install)
  whenChanged(client, "node_modules/.built", [client], "Building the client …", "run", "--silent", "build")
  whenChanged(here, ".next/.built", [client, here], "Building the app: about a minute …", "run", "--silent", "build")
}

async function checkPort(name, port) {
  const server = createServer()
  await new Promise((resolve) => {
    server.once("error", () => giveUp(`Port ${port} is taken. Choose another: make example ${name}=${Number(port) + 1}`))
    server.listen(Number(port), "127.0.0.1", resolve)
  })
  server.close()
}

/** The secret of this machine's example, made once. */
function secret() {
  const file = path.join(here, "data/secret")
  if (!existsSync(file)) writeFileSync(file, randomBytes(36).toString("base64"), { mode: 0o600 })
  return readFileSync(file, "utf8")
}

async function answers(url, children) {
  while (children.every((child) => child.exitCode === null)) {
    if (await fetch(url).then((answer) => answer.ok, () => false)) return
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
}

async function main() {
  const duly = path.join(root, ".venv/bin/duly")
  if (!existsSync(duly)) giveUp("Duly is not set up here. Run: make example")
  await checkPort("APP_PORT", APP_PORT)
  await checkPort("DULY_PORT", DULY_PORT)
  build()
  mkdirSync(path.join(here, "data"), { recursive: true })
  const appUrl = `http://localhost:${APP_PORT}`
  const dulyUrl = `http://localhost:${DULY_PORT}`
  const shared = { PATH, HOME, BETTER_AUTH_URL: appUrl }
  const trusted = DULY_TOKENS === "hs256" ? { BETTER_AUTH_SECRET: secret() } : {}
  const start = (command, args, env) => spawn(command, args, { cwd: here, stdio: ["ignore", "ignore", "inherit"], env: { ...shared, ...env } })
  const children = [
    start(duly, ["serve"], { PORT: DULY_PORT, DATA_DIR: "data/duly", LOCAL_ACCOUNTS: "false", LOG_LEVEL: "warning", ...trusted }),
    start(process.execPath, ["node_modules/next/dist/bin/next", "start", "-H", "127.0.0.1", "-p", APP_PORT], {
      NODE_ENV: "production", BETTER_AUTH_SECRET: secret(), DULY_URL: dulyUrl, DULY_TOKENS, ...quiet,
    }),
  ]
  let ending = false
  const end = (code) => {
    if (ending) return
    ending = true
    for (const child of children) child.kill("SIGTERM")
    Promise.all(children.map((child) => child.exitCode ?? new Promise((resolve) => child.once("exit", resolve)))).then(() => process.exit(code))
  }
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => end(0))
  for (const child of children) child.once("exit", () => ending || (console.error("One of the two servers ended; its error is above."), end(1)))
  await answers(`${dulyUrl}/health/ready`, children)
  await answers(`${appUrl}/sign-in`, children)
  if (!ending) console.log(`\nThe example is at ${appUrl}   (Ctrl-C ends it; what you enter stays in examples/nextjs/data)`)
}

if (process.argv.includes("--build")) build()
else await main()
