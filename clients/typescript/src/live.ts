/** The change feed as it grows: one unbroken row of changes over connections that break. */

import { createParser, type EventSourceMessage } from "eventsource-parser";

import { DulyError, NETWORK_FAILURE, readFault } from "./errors.js";
import { asksAgain, pause, pauseAfter } from "./retry.js";
import type { components } from "./schema.js";
import { isRefused, type Transport } from "./transport.js";

export type Change = components["schemas"]["ChangeResponse"];

export interface FollowOptions {
  /** Where to begin: the `cursor` of the last change that was taken in. Without it, now. */
  since?: string;
  /** Ends the iteration, quietly. */
  signal?: AbortSignal;
  /** A connection stands, and nothing after `cursor` will be missed. The first time, read the lists now. */
  onReady?: (cursor: string) => void;
  /** The connection broke and will be resumed. */
  onCut?: (reason: DulyError) => void;
  /** Milliseconds of silence after which a connection counts as dead; the server speaks every 15 seconds. */
  silenceMilliseconds?: number;
}

const SILENCE_MILLISECONDS = 40_000;
/** Until the server says its own, in `retry`. */
const RETRY_MILLISECONDS = 2_000;
const MOST_MILLISECONDS = 30_000;

/** How one connection ended: what to tell, and the answer that may ask for a longer pause. */
class Cut extends Error {
  constructor(
    readonly reason: DulyError,
    readonly response: Response | null = null,
  ) {
    super(reason.message);
  }
}

/**
 * Each change once, in order. Goes on for as long as coming back can help; throws `DulyError` when it cannot: the
 * session ended (401), or the server cannot go on at this cursor (400 `BAD_CURSOR`: read the lists anew and begin without).
 */
export async function* followChanges(
  baseUrl: string,
  transport: Transport,
  options: FollowOptions = {},
): AsyncGenerator<Change, void, undefined> {
  const { signal } = options;
  const place = { cursor: options.since, retry: RETRY_MILLISECONDS, failures: 0 };
  while (!signal?.aborted) {
    const leave = new AbortController();
    const stop = (): void => leave.abort();
    signal?.addEventListener("abort", stop);
    let cut: Cut;
    try {
      for await (const event of readConnection(baseUrl, transport, options, place, leave)) {
        if (event.id !== undefined) place.cursor = event.id;
        if (event.event === "ready") {
          place.failures = 0;
          options.onReady?.(event.id ?? "");
        } else {
          yield JSON.parse(event.data) as Change;
        }
      }
      cut = lost("The server closed the connection.");
    } catch (error) {
      if (signal?.aborted) return;
      if (!(error instanceof Cut)) throw error;
      cut = error;
    } finally {
      leave.abort();
      signal?.removeEventListener("abort", stop);
    }
    if (signal?.aborted) return;
    options.onCut?.(cut.reason);
    place.failures += 1;
    await pause(pauseBefore(cut.response, place), signal);
  }
}

interface Place {
  cursor: string | undefined;
  retry: number;
  failures: number;
}

function pauseBefore(response: Response | null, place: Place): number {
  const policy = { firstMilliseconds: place.retry, mostMilliseconds: MOST_MILLISECONDS, mostRetryAfter: Infinity };
  return pauseAfter(place.failures, response, { ...policy, attempts: Infinity, attemptMilliseconds: 0 }) ?? MOST_MILLISECONDS;
}

/** The events of one connection but its `end`, which throws: `Cut` when coming back can help. */
async function* readConnection(
  baseUrl: string,
  transport: Transport,
  options: FollowOptions,
  place: Place,
  leave: AbortController,
): AsyncGenerator<EventSourceMessage, void, undefined> {
  const { response, token } = await connect(baseUrl, transport, place, leave.signal);
  if (response.body === null) throw new TypeError("This fetch cannot stream: pass one that can as `fetch`.");
  const events: EventSourceMessage[] = [];
  const parser = createParser({
    onEvent: (event) => events.push(event),
    onRetry: (milliseconds) => {
      place.retry = milliseconds;
    },
  });
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await readWithin(reader, options.silenceMilliseconds ?? SILENCE_MILLISECONDS);
    if (done) return;
    parser.feed(decoder.decode(value, { stream: true }));
    for (const event of events.splice(0)) {
      if (event.event === "end") await finish(event, transport, token);
      yield event;
    }
  }
}

/** The token is asked for at each connection, and renewed when it was refused. */
async function connect(
  baseUrl: string,
  transport: Transport,
  place: Place,
  signal: AbortSignal,
): Promise<{ response: Response; token: string | null }> {
  let token = await tokenOf(transport);
  for (let wasRenewed = false; ; wasRenewed = true) {
    const headers = new Headers({ Accept: "text/event-stream" });
    if (token !== null) headers.set("Authorization", `Bearer ${token}`);
    if (place.cursor !== undefined) headers.set("Last-Event-ID", place.cursor);
    const request = new Request(`${baseUrl.replace(/\/+$/, "")}/api/v1/events`, { headers, signal, cache: "no-store" });
    const response = await transport.fetch(request).catch((cause: unknown) => {
      throw lost("The server was not reached.", cause);
    });
    if (response.ok) return { response, token };
    if (isRefused(response) && token !== null && transport.auth !== null && !wasRenewed) {
      token = await orCut(transport.auth.renew(token));
      if (token !== null) continue;
    }
    const fault = new DulyError(await readFault(response.clone(), 1));
    throw (await asksAgain(request, response)) ? new Cut(fault, response) : fault;
  }
}

async function tokenOf(transport: Transport): Promise<string | null> {
  return transport.auth === null ? null : orCut(transport.auth.token());
}

/** A token that cannot be had while the network is away is a reason to try again. */
async function orCut(asked: Promise<string | null>): Promise<string | null> {
  return asked.catch((error: unknown) => {
    throw error instanceof DulyError && (error.status === 0 || error.status === 429 || error.status >= 500)
      ? new Cut(error)
      : error;
  });
}

async function finish(event: EventSourceMessage, transport: Transport, token: string | null): Promise<never> {
  const { code, reconnect } = JSON.parse(event.data) as { code: string; reconnect: boolean };
  const detail = `The server ended the stream: ${code}.`;
  // Once over, the session gets to know it here and not at the next call; an expired token is replaced before it is sent.
  if (token !== null && (code === "TOKEN_EXPIRED" || code === "SESSION_ENDED")) {
    const renewed = transport.auth?.renew(token);
    await (reconnect ? orCut(renewed ?? Promise.resolve(null)) : renewed?.catch(() => null));
  }
  if (reconnect) throw new Cut(new DulyError({ status: 0, code, detail }));
  throw new DulyError({ status: 401, code, detail });
}

async function readWithin(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  milliseconds: number,
): Promise<ReadableStreamReadResult<Uint8Array>> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(lost("The connection fell silent.")), milliseconds);
  });
  try {
    return await Promise.race([
      reader.read().catch((cause: unknown) => {
        throw lost("The connection broke.", cause);
      }),
      silence,
    ]);
  } finally {
    clearTimeout(timer);
  }
}

function lost(detail: string, cause?: unknown): Cut {
  return new Cut(new DulyError({ status: 0, code: NETWORK_FAILURE, detail, cause }));
}
