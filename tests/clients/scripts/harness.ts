/** How a script talks with its test: JSON in its first argument, lines in and out. */

import { createInterface } from "node:readline";

export const given = JSON.parse(process.argv[2] ?? "{}") as Record<string, string>;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

export function need(name: string): string {
  const value = given[name];
  if (value === undefined) throw new Error(`${name} was not given`);
  return value;
}

export function say(event: string, value: unknown = null): void {
  process.stdout.write(`${JSON.stringify([event, value])}\n`);
}

/** The next line of the test, waited for. */
export async function hear(): Promise<string> {
  const { done, value } = await lines.next();
  if (done === true) process.exit();
  return value as string;
}

/** What came of a call, in words. */
export async function outcome(call: Promise<{ response: Response }>): Promise<string> {
  try {
    return String((await call).response.status);
  } catch (error) {
    const { name, status, code, attempts } = error as { name: string; status: number; code: string; attempts: number };
    return `${name} ${status} ${code} ${attempts}`;
  }
}
