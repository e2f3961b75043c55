/** The one object that an application holds. */

import type { Auth } from "./auth.js";
import { createCalls, type Calls } from "./calls.js";
import { followChanges, type Change, type FollowOptions } from "./live.js";
import { RETRY, type RetryPolicy } from "./retry.js";
import type { Fetch, Transport } from "./transport.js";

export interface DulyOptions {
  /** Where Duly answers, without `/api`: `https://api.example.com`. */
  baseUrl: string;
  /** A `Session`, or a `tokenSource`; without it calls carry no token. */
  auth?: Auth;
  /** Another `fetch`, for React Native or a proxy. */
  fetch?: Fetch;
  retry?: Partial<RetryPolicy>;
}

export interface DulyClient extends Calls {
  /** Each change of the caller's tasks once, in order, as it happens. */
  changes(options?: FollowOptions): AsyncGenerator<Change, void, undefined>;
}

/** A client for one server and one user. */
export function createDulyClient(options: DulyOptions): DulyClient {
  const transport: Transport = {
    fetch: options.fetch ?? ((request) => globalThis.fetch(request)),
    auth: options.auth ?? null,
    retry: { ...RETRY, ...options.retry },
  };
  const { GET, PUT, POST, PATCH, DELETE } = createCalls(options.baseUrl, transport);
  return { GET, PUT, POST, PATCH, DELETE, changes: (follow) => followChanges(options.baseUrl, transport, follow) };
}
