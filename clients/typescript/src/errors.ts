/** What a refused or failed call throws, whichever contract of Duly answered. */

import type { CurrentTask } from "./calls.js";

export interface FieldFault {
  /** A dotted path, such as `body.title`. */
  field: string;
  message: string;
  /** A stable word for programs. */
  type: string;
}

export interface Fault {
  status: number;
  code: string;
  detail: string;
  errors?: FieldFault[];
  requestId?: string | null;
  retryAfter?: number | null;
  attempts?: number;
  cause?: unknown;
}

/** The `code` when no answer came at all; `status` is then 0 and `cause` what `fetch` threw. */
export const NETWORK_FAILURE = "NETWORK_FAILURE";

export class DulyError extends Error {
  override readonly name: string = "DulyError";
  /** The HTTP status; 0 when no answer came. */
  readonly status: number;
  /** Stable, such as `NOT_FOUND`: branch on this. */
  readonly code: string;
  /** One sentence for people; the same as `message`. */
  readonly detail: string;
  /** The wrong fields of a 422, else empty. */
  readonly errors: readonly FieldFault[];
  /** Finds the request in the server's log. */
  readonly requestId: string | null;
  /** Seconds after which another try makes sense. */
  readonly retryAfter: number | null;
  /** How often the request was sent. Above 1, an earlier one may have been carried out before its answer was lost. */
  readonly attempts: number;

  constructor(fault: Fault) {
    super(fault.detail, fault.cause === undefined ? undefined : { cause: fault.cause });
    this.status = fault.status;
    this.code = fault.code;
    this.detail = fault.detail;
    this.errors = fault.errors ?? [];
    this.requestId = fault.requestId ?? null;
    this.retryAfter = fault.retryAfter ?? null;
    this.attempts = fault.attempts ?? 1;
  }

  /** Whether somebody changed the resource after it was read (412). */
  get isStale(): boolean {
    return this.status === 412;
  }
}

/** A 412 for a task of v1, with the way to what the task is now. */
export class StaleTaskError extends DulyError {
  override readonly name = "StaleTaskError";
  /** Reads the task as it is now. */
  readonly current: () => Promise<CurrentTask>;

  constructor(fault: Fault, current: () => Promise<CurrentTask>) {
    super(fault);
    this.current = current;
  }
}

/** Reads a refusal of any contract: problem details (v1), `{error: {…}}` (owner), `{error, message, …}` (accounts). */
export async function readFault(response: Response, attempts: number): Promise<Fault> {
  const body = asRecord(await readJson(response));
  const inner = asRecord(body["error"] ?? body);
  const details = asRecord(inner["details"]);
  return {
    status: response.status,
    code: asText(inner["code"]) ?? asText(body["error"]) ?? `HTTP_${response.status}`,
    detail: asText(body["detail"]) ?? asText(inner["message"] ?? body["message"]) ?? `The server answered ${response.status}.`,
    errors: [body["errors"], details["errors"]].filter((list): list is FieldFault[] => Array.isArray(list)).flat(),
    requestId: response.headers.get("X-Request-ID") ?? asText(body["request_id"] ?? details["request_id"]),
    retryAfter: readRetryAfter(response),
    attempts,
  };
}

/** `Retry-After` in seconds, from either of its forms (RFC 9110 §10.2.3). */
export function readRetryAfter(response: Response): number | null {
  const value = response.headers.get("Retry-After");
  if (value === null) return null;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds) : null;
}

async function readJson(response: Response): Promise<unknown> {
  try {
    return await response.json();
  } catch {
    return null;
  }
}

function asRecord(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

function asText(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}
