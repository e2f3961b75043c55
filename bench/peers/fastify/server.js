// The Node peer: Fastify, pg and @fastify/jwt, one process per worker. Reads PORT, WORKERS, DATABASE_URL and JWT_SECRET.

import cluster from 'node:cluster'
import jwt from '@fastify/jwt'
import Fastify from 'fastify'
import pg from 'pg'

const POOL_SIZE = 8

const text = { type: 'string' }
const time = { type: 'string', format: 'date-time' }
const orNull = (schema) => ({ anyOf: [schema, { type: 'null' }] })
const task = {
  type: 'object',
  properties: {
    id: text,
    user_id: text,
    title: text,
    description: orNull(text),
    completed: { type: 'boolean' },
    completed_at: orNull(time),
    priority: text,
    due_date: orNull(time),
    tags: { type: 'array', items: text },
    version: { type: 'integer' },
    created_at: time,
    updated_at: time
  }
}
const newTask = {
  type: 'object',
  required: ['title'],
  additionalProperties: false,
  properties: {
    title: { type: 'string', minLength: 1, maxLength: 200 },
    description: { type: ['string', 'null'], maxLength: 2000 },
    priority: { type: 'string', enum: ['low', 'medium', 'high', 'urgent'], default: 'medium' },
    due_date: { type: ['string', 'null'], format: 'date-time' }
  }
}
const page = { type: 'object', properties: { limit: { type: 'integer', minimum: 1, maximum: 100, default: 50 } } }
const ids = { type: 'object', properties: { id: { type: 'string', format: 'uuid' } } }

const READ = 'select * from tasks where id = $1 and user_id = $2'
const NEWEST = 'select * from tasks where user_id = $1 order by created_at desc limit $2'
const CREATE = `insert into tasks (user_id, title, description, priority, due_date)
  values ($1, $2, $3, $4, $5) returning *`

async function serve () {
  const app = Fastify()
  const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: POOL_SIZE })
  await app.register(jwt, { secret: process.env.JWT_SECRET })
  const onRequest = async (request) => { await request.jwtVerify() }

  app.get('/health', async () => ({ status: 'ok' }))

  app.get('/tasks/:id', { onRequest, schema: { params: ids, response: { 200: task } } }, async (request, reply) => {
    const values = [request.params.id, request.user.sub]
    const { rows } = await pool.query({ name: 'read', text: READ, values })
    return rows[0] ?? reply.code(404).send({ error: 'not found' })
  })

  const list = { onRequest, schema: { querystring: page, response: { 200: { type: 'array', items: task } } } }
  app.get('/tasks', list, async (request) => {
    const values = [request.user.sub, request.query.limit]
    return (await pool.query({ name: 'newest', text: NEWEST, values })).rows
  })

  app.post('/tasks', { onRequest, schema: { body: newTask, response: { 201: task } } }, async (request, reply) => {
    const { title, description, priority, due_date: due } = request.body
    const values = [request.user.sub, title, description, priority, due]
    const { rows } = await pool.query({ name: 'create', text: CREATE, values })
    return reply.code(201).send(rows[0])
  })

  await app.listen({ host: '127.0.0.1', port: Number(process.env.PORT) })
}

if (cluster.isPrimary) {
  for (let n = 0; n < Number(process.env.WORKERS); n++) cluster.fork()
  cluster.on('exit', () => process.exit(1))
} else {
  await serve()
}
