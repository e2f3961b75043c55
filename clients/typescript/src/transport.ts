/** Sends one request: signed, tried again where that is safe, and signed anew when its token was refused. */

import type { Auth } from "./auth.js";
import { DulyError, NETWORK_FAILURE } from "./errors.js";
import { asksAgain, isRepeatable, pause, pauseAfter, type RetryPolicy } from "./retry.js";

export type Fetch = (request: Request) => Promise<Response>;

export interface Transport {
  fetch: Fetch;
  auth: Auth | null;
  retry: RetryPolicy;
}

/** How often the request was sent that this response answers. */
export const attemptsOf = new WeakMap<Response, number>();

/** The last answer, whatever its status. Throws `DulyError` with `NETWORK_FAILURE` when none came. */
export async function send(transport: Transport, request: Request): Promise<Response> {
  if (request.method === "POST" && !request.headers.has("Idempotency-Key")) {
    request.headers.set("Idempotency-Key", newKey());
  }
  const auth = request.headers.has("Authorization") ? null : transport.auth;
  let token = (await auth?.token()) ?? null;
  let mayRenew = auth !== null && token !== null;
  for (let attempt = 1; ; ) {
    const outcome = await attemptOnce(transport, request, token, attempt);
    if (mayRenew && outcome.response !== null && isRefused(outcome.response)) {
      mayRenew = false;
      token = (await auth?.renew(token ?? "")) ?? null;
      if (token !== null) {
        drop(outcome.response);
        continue;
      }
    }
    const wait = await pauseBefore(transport.retry, request, attempt, outcome.response);
    if (wait !== null) {
      drop(outcome.response);
      await pause(wait, request.signal);
      attempt += 1;
    } else if (outcome.response === null) {
      throw outcome.error;
    } else {
      attemptsOf.set(outcome.response, attempt);
      return outcome.response;
    }
  }
}

type Outcome = { response: Response } | { response: null; error: DulyError };

async function attemptOnce(transport: Transport, request: Request, token: string | null, attempt: number): Promise<Outcome> {
  const limit = new AbortController();
  const stop = (): void => limit.abort(request.signal.reason);
  request.signal.addEventListener("abort", stop);
  const allowed = transport.retry.attemptMilliseconds;
  const isUpload = (request.headers.get("Content-Type") ?? "").startsWith("multipart/");
  const timer = allowed > 0 && !isUpload ? setTimeout(() => limit.abort(), allowed) : undefined;
  try {
    throwIfAborted(request.signal);
    const copy = new Request(request.clone(), { signal: limit.signal });
    if (token !== null) copy.headers.set("Authorization", `Bearer ${token}`);
    const response = await transport.fetch(copy);
    // An answer that breaks off in its middle is as lost as one that never came; files are streamed to the caller.
    if (isDocument(response)) await response.clone().arrayBuffer();
    return { response };
  } catch (cause) {
    throwIfAborted(request.signal);
    const detail = "No answer came from the server. Check the connection and try again.";
    return { response: null, error: new DulyError({ status: 0, code: NETWORK_FAILURE, detail, attempts: attempt, cause }) };
  } finally {
    clearTimeout(timer);
    request.signal.removeEventListener("abort", stop);
  }
}

async function pauseBefore(
  policy: RetryPolicy,
  request: Request,
  attempt: number,
  response: Response | null,
): Promise<number | null> {
  if (attempt >= policy.attempts) return null;
  const again = response === null ? isRepeatable(request) : await asksAgain(request, response);
  return again ? pauseAfter(attempt, response, policy) : null;
}

/** RFC 6750 §3.1: the token is at fault. A wrong password is 401 too, and another token would not help. */
export function isRefused(response: Response): boolean {
  return response.status === 401 && (response.headers.get("WWW-Authenticate") ?? "").includes('error="invalid_token"');
}

/** Frees the connection of an answer that nobody will read. */
function drop(response: Response | null): void {
  void response?.body?.cancel().catch(() => undefined);
}

/** The method of this name is missing in React Native. */
function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw signal.reason ?? new Error("The call was aborted.");
}

function isDocument(response: Response): boolean {
  const type = response.headers.get("Content-Type") ?? "";
  return /[/+]json\b/.test(type) && !response.headers.has("Content-Disposition");
}

/** 122 random bits. `crypto.randomUUID` is missing on pages without HTTPS and in React Native. */
function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
