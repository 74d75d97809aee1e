// The extension of the modern era by which a call goes on after it was answered: `io.modelcontextprotocol/tasks`.
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { CLIENT_ERROR, Failure, form, given, needs, said, text, tool, word } from './shapes.mjs'

export const EXTENSION = 'io.modelcontextprotocol/tasks'
const tasks = new Map()

const has = (context) => context.modern && context.capabilities.extensions?.[EXTENSION] !== undefined
function demand(context) {
  if (!has(context)) {
    throw new Failure(CLIENT_ERROR, 'Missing required client capability', { requiredCapabilities: { extensions: { [EXTENSION]: {} } } })
  }
}

// What a caller sees of a task.
function shown({ id, state, since, changed, result, error, asked }) {
  const inputRequests = Object.fromEntries([...asked].map(([key, { request }]) => [key, request]))
  return {
    taskId: id, status: state, createdAt: since, lastUpdatedAt: changed, ttlMs: 60000, pollIntervalMs: 100,
    ...(result && { result }), ...(error && { error }), ...(asked.size > 0 && { inputRequests }),
  }
}

function settle(task, state, more) {
  if (!['working', 'input_required'].includes(task.state)) return
  Object.assign(task, { state, changed: new Date().toISOString(), asked: new Map() }, more)
}

// Begins a task; what `work` does, it does after the answer.
function begin(work) {
  const now = new Date().toISOString()
  const task = { id: randomUUID(), state: 'working', since: now, changed: now, asked: new Map() }
  tasks.set(task.id, task)
  const ask = (key, request) => new Promise((resolve) => {
    task.asked.set(key, { request, resolve })
    task.state = 'input_required'
  })
  const failed = (error) => settle(task, 'failed', { error: { code: error.code ?? -32603, message: error.message } })
  work(ask).then((result) => settle(task, 'completed', { result: { resultType: 'complete', ...result } }), failed)
  return { resultType: 'task', ...shown(task) }
}

const confirmed = form('Go on?', { confirm: { type: 'boolean' } })
const value = form('A value, please', { value: word })

async function slowly({ seconds = 1, label = '' }) {
  await sleep(seconds * 1000)
  return said(text(`${label} is done`))
}

// A tool that is a task for who knows tasks, and for others a call, if it can be.
const able = (work) => (params, context) => (has(context) ? begin(() => work(params.arguments)) : work(params.arguments))
const only = (call) => (params, context) => {
  demand(context)
  return call(params)
}

export const TASK_TOOLS = {
  greet: tool('Greets', ({ arguments: { name } }) => said(text(`Hello, ${name}!`)), { name: word }, ['name']),
  slow_compute: tool('Takes its time', able(slowly), { seconds: { type: 'number' }, label: word }),
  failing_job: tool('Fails, as a task', only(() => begin(async () => {
    await sleep(300)
    return { isError: true, ...said(text('it failed, as it should')) }
  }))),
  protocol_error_job: tool('Breaks', able(async () => {
    await sleep(100)
    throw new Failure(-32603, 'it broke, as it should')
  })),
  confirm_delete: tool('Asks before it goes on', only(() => begin(async (ask) => {
    const { content } = await ask('confirm', confirmed)
    return said(text(`confirmed: ${content?.confirm}`))
  })), { filename: word }),
  multi_input: tool('Asks for two things at once', only(() => begin(async (ask) => {
    const answers = await Promise.all([ask('first', value), ask('second', value)])
    return said(text(answers.map(({ content }) => content?.value).join(' ')))
  }))),
  test_tool_with_task: tool('Asks, and goes on as a task', only((params) => {
    const answers = given(params, 'user_name')
    if (!answers) return needs({ user_name: form('What is your name?', { name: word }) })
    return begin(async () => said(text(`Hello, ${answers[0].content.name}!`)))
  })),
}

function found({ taskId }, context) {
  demand(context)
  const task = tasks.get(taskId)
  if (!task) throw new Failure(-32602, 'Unknown task')
  return task
}

export const TASK_METHODS = {
  'tasks/get': (params, context) => shown(found(params, context)),
  'tasks/cancel': (params, context) => {
    settle(found(params, context), 'cancelled')
    return {}
  },
  'tasks/update': (params, context) => {
    const task = found(params, context)
    for (const [key, answer] of Object.entries(params.inputResponses ?? {})) {
      task.asked.get(key)?.resolve(answer)
      task.asked.delete(key)
    }
    if (task.state === 'input_required' && task.asked.size === 0) task.state = 'working'
    return {}
  },
}
