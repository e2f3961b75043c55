// The part of the guide's application that is the reader's own: where Better Auth keeps its users.
import { memoryAdapter } from "better-auth/adapters/memory";

export const database = memoryAdapter({ user: [], session: [], account: [], verification: [], jwks: [] });
