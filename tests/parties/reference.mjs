// A server that speaks both eras of MCP over HTTP by the letter, without any SDK: what the conformance suite asks of a
// server. What it offers is in offers.mjs.
//
//   node reference.mjs PORT
import { createServer } from 'node:http'
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { CAPABILITIES, METHODS, SERVER, TOOLS } from './offers.mjs'
import { CLIENT_ERROR, Failure } from './shapes.mjs'
import { TASK_METHODS } from './tasks.mjs'

const LEGACY = ['2025-11-25', '2025-06-18', '2025-03-26']
const MODERN = '2026-07-28'
const META = 'io.modelcontextprotocol/'
// What the modern era has no more, and what the legacy one did not have.
const LEGACY_ONLY = ['ping', 'logging/setLevel', 'resources/subscribe', 'resources/unsubscribe']
const MODERN_ONLY = ['server/discover', ...Object.keys(TASK_METHODS)]
const NAMED = { 'tools/call': 'name', 'prompts/get': 'name', 'resources/read': 'uri' }
for (const method of Object.keys(TASK_METHODS)) NAMED[method] = 'taskId'
const CACHEABLE = ['server/discover', 'tools/list', 'prompts/list', 'resources/list', 'resources/templates/list', 'resources/read']

const sessions = new Map()
const listeners = new Set()

const failure = (id, code, message, data) => ({ jsonrpc: '2.0', id: id ?? null, error: { code, message, data } })

function json(response, status, message, headers = {}) {
  response.writeHead(status, { 'content-type': 'application/json', ...headers })
  response.end(JSON.stringify(message))
}

// Messages of one answer: a single message goes as JSON, more than that as events.
class Answer {
  constructor(response, events) {
    this.response = response
    this.events = events
    this.number = 0
    this.closed = false
    this.later = []
  }

  open() {
    if (!this.response.headersSent) {
      this.response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
    }
  }

  event(message) {
    if (this.closed) return this.later.push(message)
    this.open()
    const id = this.events ? `id: ${this.events}/${++this.number}\n` : ''
    this.response.write(`${id}data: ${JSON.stringify(message)}\n\n`)
  }

  // Ends the stream, to be asked for again.
  leave() {
    this.open()
    this.response.end(`id: ${this.events}/${++this.number}\nretry: 500\ndata: \n\n`)
    this.closed = true
  }

  // The rest, on the stream by which it was asked for.
  resume(response) {
    this.response = response
    this.closed = false
    const { later } = this
    this.later = []
    this.open()
    for (const message of later) this.event(message)
    if (later.some((message) => 'result' in message)) response.end()
  }

  last(message, status = 200) {
    if (this.closed) return this.later.push(message)
    if (this.response.headersSent) {
      this.event(message)
      this.response.end()
    } else {
      json(this.response, status, message)
    }
  }
}

// What a method may do beside answering.
class Context {
  constructor(message, answer, session, modern) {
    Object.assign(this, { message, answer, session, modern, sleep })
    const meta = message.params?._meta ?? {}
    this.progress = meta.progressToken
    this.logs = modern ? meta[META + 'logLevel'] !== undefined : true
    this.capabilities = (modern ? meta[META + 'clientCapabilities'] : session?.capabilities) ?? {}
  }

  notify(method, params) {
    this.answer.event({ jsonrpc: '2.0', method, params })
  }

  // Asks the client, as the legacy era does: on the stream of the request.
  ask(method, params) {
    const id = randomUUID()
    const asked = new Promise((resolve, reject) => this.session.asked.set(id, { resolve, reject }))
    this.answer.event({ jsonrpc: '2.0', id, method, params })
    return asked
  }

  leave() {
    this.answer.leave()
  }

  changed(kind) {
    for (const listener of listeners) listener(kind)
  }
}

async function perform(message, answer, session, modern) {
  const method = METHODS[message.method]
  const result = await method(message.params ?? {}, new Context(message, answer, session, modern))
  if (modern) {
    result.resultType ??= 'complete'
    result._meta = { ...result._meta, [META + 'serverInfo']: SERVER }
    if (CACHEABLE.includes(message.method)) Object.assign(result, { ttlMs: 60000, cacheScope: 'public' })
  }
  return { jsonrpc: '2.0', id: message.id, result }
}

async function respond(message, response, session, modern) {
  const answer = new Answer(response, session && `${session.id}/${session.streams++}`)
  session?.answers.set(answer.events, answer)
  try {
    answer.last(await perform(message, answer, session, modern))
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    const status = modern && error.code === CLIENT_ERROR ? 400 : 200
    answer.last(failure(message.id, error.code, error.message, error.data), status)
  }
}

function legacy(request, response, message) {
  const id = request.headers['mcp-session-id']
  if (message.method === 'initialize') {
    const session = { id: randomUUID(), asked: new Map(), answers: new Map(), streams: 0, capabilities: message.params?.capabilities }
    sessions.set(session.id, session)
    const asked = message.params?.protocolVersion
    const protocolVersion = LEGACY.includes(asked) ? asked : LEGACY[0]
    const result = { protocolVersion, capabilities: CAPABILITIES, serverInfo: SERVER }
    return json(response, 200, { jsonrpc: '2.0', id: message.id, result }, { 'mcp-session-id': session.id })
  }
  const session = sessions.get(id)
  if (!session) return json(response, id ? 404 : 400, failure(message.id, -32600, 'no such session'))
  const version = request.headers['mcp-protocol-version']
  if (version && !LEGACY.includes(version)) return json(response, 400, failure(message.id, -32600, 'no such version'))
  if (message.method === undefined) {
    const asked = session.asked.get(message.id)
    session.asked.delete(message.id)
    if (message.error) asked?.reject(new Failure(message.error.code, message.error.message))
    else asked?.resolve(message.result)
    return response.writeHead(202).end()
  }
  if (message.id === undefined) return response.writeHead(202).end()
  if (!METHODS[message.method] || MODERN_ONLY.includes(message.method)) {
    return json(response, 200, failure(message.id, -32601, `Method not found: ${message.method}`))
  }
  return respond(message, response, session, false)
}

// A header's value: plain, or marked as base64. Undefined where it is marked and is none.
function decoded(value) {
  const marked = /^=\?base64\?(.*)\?=$/.exec(value.trim())
  if (!marked) return value.trim()
  const bytes = Buffer.from(marked[1], 'base64')
  return bytes.toString('base64') === marked[1] ? bytes.toString() : undefined
}

// What in the headers is not what the body says.
function mismatch(request, message) {
  const { headers } = request
  const version = message.params?._meta?.[META + 'protocolVersion']
  if (headers['mcp-protocol-version'] !== version) return 'MCP-Protocol-Version'
  if (headers['mcp-method']?.trim() !== message.method) return 'Mcp-Method'
  const named = NAMED[message.method]
  if (named && message.id !== undefined) {
    const said = headers['mcp-name']
    if (said === undefined || decoded(said) !== message.params[named]) return 'Mcp-Name'
  }
  if (message.method !== 'tools/call') return undefined
  const properties = TOOLS[message.params.name]?.inputSchema?.properties ?? {}
  for (const [name, property] of Object.entries(properties)) {
    const suffix = property['x-mcp-header']
    if (suffix === undefined) continue
    const value = message.params.arguments?.[name]
    const said = headers[`mcp-param-${suffix.toLowerCase()}`]
    if ((value === undefined) !== (said === undefined)) return `Mcp-Param-${suffix}`
    if (said !== undefined && decoded(said) !== String(value)) return `Mcp-Param-${suffix}`
  }
  return undefined
}

function listen(request, response, message) {
  const wanted = message.params.notifications ?? {}
  const subscription = { [META + 'subscriptionId']: message.id }
  const answer = new Answer(response)
  const say = (method, params) => answer.event({ jsonrpc: '2.0', method, params: { ...params, _meta: subscription } })
  say('notifications/subscriptions/acknowledged', { notifications: wanted })
  const listener = (kind) => {
    if (wanted[`${kind}ListChanged`]) say(`notifications/${kind}/list_changed`)
  }
  listeners.add(listener)
  response.on('close', () => listeners.delete(listener))
}

function modern(request, response, message) {
  const meta = message.params?._meta
  const refuse = (status, code, text, data) => json(response, status, failure(message.id, code, text, data))
  const version = meta?.[META + 'protocolVersion']
  if (version === undefined || typeof meta[META + 'clientCapabilities'] !== 'object') {
    return refuse(400, -32602, 'Invalid params: _meta lacks what every request has to say')
  }
  const wrong = mismatch(request, message)
  if (wrong) return refuse(400, -32020, `Header mismatch: ${wrong}`)
  if (version !== MODERN) {
    return refuse(400, -32022, 'Unsupported protocol version', { supported: [MODERN], requested: version })
  }
  if (message.id === undefined) return response.writeHead(202).end()
  if (message.method === 'subscriptions/listen') return listen(request, response, message)
  if (!METHODS[message.method] || LEGACY_ONLY.includes(message.method)) {
    return refuse(404, -32601, `Method not found: ${message.method}`)
  }
  return respond(message, response, undefined, true)
}

function rebound({ headers }) {
  const local = /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/
  const { origin } = headers
  return !local.test(headers.host) || (origin !== undefined && !local.test(origin.replace(/^https?:\/\//, '')))
}

async function body(request) {
  const parts = []
  for await (const part of request) parts.push(part)
  return JSON.parse(Buffer.concat(parts).toString())
}

async function handle(request, response) {
  if (rebound(request)) return json(response, 403, failure(null, -32600, 'this is not for you'))
  if (request.url !== '/mcp') return response.writeHead(404).end()
  const session = sessions.get(request.headers['mcp-session-id'])
  if (request.method === 'GET' && session) {
    const last = request.headers['last-event-id']
    if (last) return session.answers.get(last.replace(/\/\d+$/, ''))?.resume(response)
    return response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
  }
  if (request.method === 'DELETE' && session) {
    sessions.delete(session.id)
    return response.writeHead(204).end()
  }
  if (request.method === 'DELETE' && request.headers['mcp-session-id']) return response.writeHead(404).end()
  if (request.method !== 'POST') return response.writeHead(405).end()
  let message
  try {
    message = await body(request)
  } catch {
    return json(response, 400, failure(null, -32700, 'Parse error'))
  }
  const version = request.headers['mcp-protocol-version']
  const eras = message.method === 'initialize' && version !== MODERN
  if (eras || session || request.headers['mcp-session-id'] || LEGACY.includes(version)) return legacy(request, response, message)
  return modern(request, response, message)
}

const port = Number(process.argv[2])
createServer((request, response) => {
  handle(request, response).catch((error) => {
    console.error(error)
    response.destroy()
  })
}).listen(port, '127.0.0.1', () => console.log(`listening at ${port}`))
