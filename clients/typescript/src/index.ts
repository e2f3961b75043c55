/** `@duly/client`: everything that an application imports. */

export { tokenSource, type Auth, type GetToken } from "./auth.js";
export type { Calls, CurrentTask, Task } from "./calls.js";
export { createDulyClient, type DulyClient, type DulyOptions } from "./client.js";
export { DulyError, NETWORK_FAILURE, StaleTaskError, type FieldFault } from "./errors.js";
export type { Change, FollowOptions } from "./live.js";
export type { RetryPolicy } from "./retry.js";
export type { components, operations, paths } from "./schema.js";
export {
  memoryStore,
  Session,
  type Credentials,
  type SessionOptions,
  type SessionStore,
  type Tokens,
  type User,
} from "./session.js";
export type { Fetch } from "./transport.js";
