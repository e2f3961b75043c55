/** What may be sent again, how often, and after how long. */

import { readRetryAfter } from "./errors.js";

export interface RetryPolicy {
  /** How often a request is sent at most; 1 never repeats. */
  attempts: number;
  /** The first pause, in milliseconds; each further one is twice as long, up to `mostMilliseconds`. */
  firstMilliseconds: number;
  mostMilliseconds: number;
  /** A server that asks for a longer pause than this, in seconds, is not waited for: the call throws at once. */
  mostRetryAfter: number;
  /**
   * How long one attempt may wait for its answer, in milliseconds; 0 for as long as it takes. An upload may always take
   * as long as it takes.
   */
  attemptMilliseconds: number;
}

export const RETRY: RetryPolicy = {
  attempts: 4,
  firstMilliseconds: 300,
  mostMilliseconds: 10_000,
  mostRetryAfter: 30,
  // Duly answers within 30 seconds, or says that it cannot.
  attemptMilliseconds: 40_000,
};

/** The POST routes that keep their first answer under the `Idempotency-Key`. */
const KEEPS_ANSWERS = /\/tasks(\/bulk|\/import|\/[^/]+\/attachments)?\/?$/;
/** A refresh token that was just replaced gets the same successor again for ten seconds. */
const REFRESH = /\/auth\/refresh\/?$/;
const REPEATABLE = new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]);
const PASSING = new Set([502, 503, 504]);

/**
 * Whether sending it twice does what sending it once does.
 *
 * GET, PUT and DELETE by RFC 9110 §9.2.2; POST where the server keeps the first answer; PATCH under `If-Match`, because
 * its second arrival finds another version and does nothing. Any other PATCH could undo what somebody else wrote in
 * between, or toggle twice.
 */
export function isRepeatable(request: Request): boolean {
  if (request.method === "PATCH") return request.headers.has("If-Match");
  const path = new URL(request.url).pathname;
  return REPEATABLE.has(request.method) || (request.method === "POST" && (KEEPS_ANSWERS.test(path) || REFRESH.test(path)));
}

/** Whether this answer asks for another try. A 429 comes before anything was done, so every request may follow it. */
export async function asksAgain(request: Request, response: Response): Promise<boolean> {
  if (response.status === 429) return true;
  if (PASSING.has(response.status)) return isRepeatable(request);
  return response.status === 409 && isRepeatable(request) && (await codeOf(response)) === "IDEMPOTENCY_IN_PROGRESS";
}

/** Milliseconds to wait after the attempt of this number, from 1 on; null when the server asks for too long a pause. */
export function pauseAfter(attempt: number, response: Response | null, policy: RetryPolicy): number | null {
  const step = Math.min(policy.firstMilliseconds * 2 ** (attempt - 1), policy.mostMilliseconds);
  const asked = response === null ? null : readRetryAfter(response);
  if (asked === null) return step * (0.5 + Math.random() / 2);
  // Those who were told the same moment must not come back in the same moment.
  return asked > policy.mostRetryAfter ? null : asked * 1000 + step * Math.random();
}

/** Waits; an abort ends the wait early, and the caller looks at the signal. */
export function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", done);
    if (signal?.aborted) done();
  });
}

async function codeOf(response: Response): Promise<unknown> {
  try {
    const body: unknown = await response.clone().json();
    return typeof body === "object" && body !== null && "code" in body ? body.code : null;
  } catch {
    return null;
  }
}
