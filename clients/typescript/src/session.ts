/** A session of Duly's own accounts: one refresh for all who wait, the new pair kept before anybody goes on. */

import { type Auth, SPARE_MILLISECONDS } from "./auth.js";
import { createCalls, type Calls } from "./calls.js";
import { DulyError } from "./errors.js";
import { RETRY, type RetryPolicy } from "./retry.js";
import type { components } from "./schema.js";
import type { Fetch } from "./transport.js";

type Schemas = components["schemas"];
export type User = Schemas["UserResponse"];
/** One of `email`, `username` and `identifier`, and the password. */
export type Credentials = { password: string } & ({ email: string } | { username: string } | { identifier: string });

export interface Tokens {
  accessToken: string;
  refreshToken: string;
  /** When the access token ends, in milliseconds of this machine's clock. */
  expiresAt: number;
}

/** Where the tokens live. What `load` gives is the truth, so that the tabs of a browser can share one store. */
export interface SessionStore {
  load(): Tokens | null | Promise<Tokens | null>;
  save(tokens: Tokens): void | Promise<void>;
  clear(): void | Promise<void>;
}

export interface SessionOptions {
  baseUrl: string;
  store: SessionStore;
  /** The server ended the session: show the sign-in page. Not called by `signOut`. */
  onSignedOut?: (reason: DulyError) => void;
  fetch?: Fetch;
  retry?: Partial<RetryPolicy>;
}

/** The answers to a refresh that say that this session is over, not that the server or the way to it fails. */
const OVER = new Set([400, 401, 403, 422]);
/** A replaced refresh token is taken once more for ten seconds: the second attempt has to begin before. */
const REFRESH_MILLISECONDS = 5_000;

export class Session implements Auth {
  readonly #store: SessionStore;
  readonly #onSignedOut: (reason: DulyError) => void;
  readonly #calls: Calls;
  readonly #refreshCalls: Calls;
  #refreshing: Promise<string | null> | null = null;
  /** What changes the store goes one after the other: a refresh must not bring back what a sign-out cleared. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: SessionOptions) {
    const fetch = options.fetch ?? ((request) => globalThis.fetch(request));
    const retry = { ...RETRY, ...options.retry };
    this.#store = options.store;
    this.#onSignedOut = options.onSignedOut ?? (() => undefined);
    this.#calls = createCalls(options.baseUrl, { fetch, auth: null, retry });
    this.#refreshCalls = createCalls(options.baseUrl, {
      fetch,
      auth: null,
      retry: { ...retry, attemptMilliseconds: options.retry?.attemptMilliseconds ?? REFRESH_MILLISECONDS },
    });
  }

  async token(): Promise<string | null> {
    const tokens = await this.#store.load();
    if (tokens === null) return null;
    return isFresh(tokens) ? tokens.accessToken : this.#refresh(null);
  }

  async renew(refused: string): Promise<string | null> {
    return this.#refresh(refused);
  }

  /** Whether there is a session to go on with; the server may have ended it. */
  async isSignedIn(): Promise<boolean> {
    return (await this.#store.load()) !== null;
  }

  /** Throws `DulyError`: 401 `INVALID_CREDENTIALS`, 423 `ACCOUNT_LOCKED` with `retryAfter`. */
  async signIn(credentials: Credentials): Promise<User> {
    const { data } = await this.#calls.POST("/api/v1/auth/login", { body: credentials });
    await this.#alone(async () => this.#store.save(tokensFrom(data)));
    return data.user;
  }

  /** Creates an account and signs in. Null where the operator asks for a verified address first: a mail says the rest. */
  async register(account: Schemas["RegisterRequest"]): Promise<User | null> {
    const { data } = await this.#calls.POST("/api/v1/auth/register", { body: account });
    if (!("user" in data)) return null;
    await this.#alone(async () => this.#store.save(tokensFrom(data)));
    return data.user;
  }

  /** Forgets the tokens, and ends the session on the server. Throws when the server was not reached; they are gone all the same. */
  async signOut(options: { allSessions?: boolean } = {}): Promise<void> {
    const token = await this.token().catch(() => null);
    await this.#alone(async () => this.#store.clear());
    if (token === null) return;
    const headers = { Authorization: `Bearer ${token}` };
    const body = { all_sessions: options.allSessions ?? false };
    await this.#calls.POST("/api/v1/auth/logout", { headers, body }).catch((error: unknown) => {
      // The session was over already.
      if (!(error instanceof DulyError) || error.status !== 401) throw error;
    });
  }

  #refresh(refused: string | null): Promise<string | null> {
    this.#refreshing ??= this.#alone(() => this.#exchange(refused)).finally(() => {
      this.#refreshing = null;
    });
    return this.#refreshing;
  }

  async #exchange(refused: string | null): Promise<string | null> {
    const held = await this.#store.load();
    if (held === null) return null;
    // Another tab, or a call before this one, may have got a new pair.
    if (held.accessToken !== refused && isFresh(held)) return held.accessToken;
    try {
      const { data } = await this.#refreshCalls.POST("/api/v1/auth/refresh", { body: { refresh_token: held.refreshToken } });
      await this.#store.save(tokensFrom(data));
      return data.access_token;
    } catch (error) {
      // Without a request id it is not Duly that speaks, but something on the way.
      if (!(error instanceof DulyError) || !OVER.has(error.status) || error.requestId === null) throw error;
      const now = await this.#store.load();
      if (now !== null && now.refreshToken !== held.refreshToken) return now.accessToken;
      await this.#store.clear();
      this.#onSignedOut(error);
      throw error;
    }
  }

  #alone<Result>(work: () => Promise<Result>): Promise<Result> {
    const done = this.#last.then(work);
    this.#last = done.catch(() => undefined);
    return done;
  }
}

/** Keeps the tokens for as long as the program runs. */
export function memoryStore(tokens: Tokens | null = null): SessionStore {
  let held = tokens;
  return {
    load: () => held,
    save: (next) => {
      held = next;
    },
    clear: () => {
      held = null;
    },
  };
}

function isFresh(tokens: Tokens): boolean {
  return Date.now() < tokens.expiresAt - SPARE_MILLISECONDS;
}

function tokensFrom(answer: Schemas["TokenResponse"]): Tokens {
  return {
    accessToken: answer.access_token,
    refreshToken: answer.refresh_token,
    expiresAt: Date.now() + answer.expires_in * 1000,
  };
}
