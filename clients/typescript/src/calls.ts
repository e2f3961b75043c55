/** Every operation of the document as a typed call that answers or throws. */

import createClient, { type Client, type FetchResponse, type MaybeOptionalInit } from "openapi-fetch";
import type { HttpMethod, MediaType, PathsWithMethod, RequiredKeysOf } from "openapi-typescript-helpers";

import { DulyError, readFault, StaleTaskError } from "./errors.js";
import type { components, paths } from "./schema.js";
import { attemptsOf, send, type Transport } from "./transport.js";

export type Task = components["schemas"]["TaskResponse"];

/** A task as it is now, and the `If-Match` that an edit of it sends. */
export interface CurrentTask {
  task: Task;
  etag: string;
}

/** What a call gives when it did not throw. */
type Answer<Operation extends Record<string | number, unknown>, Init> = Extract<
  FetchResponse<Operation, Init, MediaType>,
  { data: unknown }
>;

type Call<Method extends HttpMethod> = <
  Path extends PathsWithMethod<paths, Method>,
  Init extends MaybeOptionalInit<paths[Path], Method>,
>(
  path: Path,
  ...init: RequiredKeysOf<Init> extends never ? [Init?] : [Init]
) => Promise<Answer<paths[Path][Method] & Record<string | number, unknown>, Init>>;

export interface Calls {
  GET: Call<"get">;
  PUT: Call<"put">;
  POST: Call<"post">;
  PATCH: Call<"patch">;
  DELETE: Call<"delete">;
}

const TASK = /\/api(?:\/v1)?\/tasks\/([^/]+)(?:\/complete)?\/?$/;

/** The calls. `openapi-fetch` knows addresses and types; what it would return as `error` is thrown instead. */
export function createCalls(baseUrl: string, transport: Transport): Calls {
  const client = createClient<paths>({ baseUrl, fetch: (request) => send(transport, request) });
  client.use({
    async onResponse({ request, response }) {
      // 304 is the answer that `If-None-Match` asked for.
      if (response.ok || response.status === 304) return;
      const fault = await readFault(response, attemptsOf.get(response) ?? 1);
      const taskId = TASK.exec(new URL(request.url).pathname)?.[1];
      if (response.status === 412 && taskId !== undefined) {
        throw new StaleTaskError(fault, () => readTask(client, decodeURIComponent(taskId)));
      }
      throw new DulyError(fault);
    },
  });
  return client as unknown as Calls;
}

async function readTask(client: Client<paths>, task_id: string): Promise<CurrentTask> {
  const { data, response } = await client.GET("/api/v1/tasks/{task_id}", { params: { path: { task_id } } });
  return { task: data as Task, etag: response.headers.get("ETag") ?? "" };
}
