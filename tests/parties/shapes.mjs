// How results and requests are made.
import { createHmac } from 'node:crypto'

// The client lacks a capability that it takes.
export const CLIENT_ERROR = -32021

export class Failure extends Error {
  constructor(code, message, data) {
    super(message)
    Object.assign(this, { code, data })
  }
}

export const text = (words) => ({ type: 'text', text: words })
export const said = (...content) => ({ content })

// Asking a person, a model, or for roots.
export const form = (message, properties, required = Object.keys(properties)) => ({
  method: 'elicitation/create',
  params: { mode: 'form', message, requestedSchema: { type: 'object', properties, required } },
})
export const sample = (words, maxTokens = 100) => ({
  method: 'sampling/createMessage',
  params: { messages: [{ role: 'user', content: text(words) }], maxTokens },
})
export const roots = { method: 'roots/list', params: {} }

// A state that only this server can have made.
const KEY = 'not a secret: it only has to be the same twice'
const sealed = (state) => `${state}.${createHmac('sha256', KEY).update(state).digest('hex')}`
export function unsealed(params) {
  const { requestState } = params
  if (requestState === undefined) return undefined
  const state = requestState.split('.')[0]
  if (sealed(state) !== requestState) throw new Failure(-32602, 'Invalid params: requestState was changed')
  return state
}
export const needs = (inputRequests, state) => ({
  resultType: 'input_required', inputRequests, ...(state ? { requestState: sealed(state) } : {}),
})
// The answers, if each of these is there and is one.
export function given(params, ...keys) {
  const answers = keys.map((key) => params.inputResponses?.[key])
  return answers.every((answer) => answer !== null && typeof answer === 'object') ? answers : undefined
}

export const tool = (description, call, properties = {}, required = []) => ({
  description, call, inputSchema: { type: 'object', properties, required },
})
export const word = { type: 'string' }
