/** Which token a request carries, and where the next one comes from. */

export interface Auth {
  /** The token to send now; null sends the request without one. */
  token(): Promise<string | null>;
  /** The server refused `refused`: another token, or null when there is none to be had. */
  renew(refused: string): Promise<string | null>;
}

/** Gives a token. `wasRefused` says that the server did not take the one before: ask for a new one, not for a cached one. */
export type GetToken = (wasRefused: boolean) => Promise<string | null>;

/** A token is replaced so long before its end that it does not expire on the way. */
export const SPARE_MILLISECONDS = 30_000;

/**
 * Tokens of an outside issuer, such as Better Auth: kept until shortly before their `exp`, and asked for once however
 * many calls wait. What `getToken` throws, the call throws.
 */
export function tokenSource(getToken: GetToken): Auth {
  let held: { token: string; until: number } | null = null;
  let asking: Promise<string | null> | null = null;

  function ask(wasRefused: boolean): Promise<string | null> {
    asking ??= getToken(wasRefused)
      .then((token) => {
        held = token === null ? null : { token, until: expiryOf(token) - SPARE_MILLISECONDS };
        return token;
      })
      .finally(() => {
        asking = null;
      });
    return asking;
  }

  return {
    async token() {
      return held !== null && Date.now() < held.until ? held.token : ask(false);
    },
    async renew(refused) {
      // Somebody who waited may find that the others have got a new one already.
      if (held !== null && held.token !== refused) return held.token;
      held = null;
      return ask(true);
    },
  };
}

/** The `exp` of a JWT in milliseconds; 0 for what cannot be read, so that it is not kept. */
function expiryOf(token: string): number {
  try {
    const payload = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const claims: unknown = JSON.parse(atob(payload));
    const isDated = typeof claims === "object" && claims !== null && "exp" in claims && typeof claims.exp === "number";
    return isDated ? (claims.exp as number) * 1000 : 0;
  } catch {
    return 0;
  }
}
