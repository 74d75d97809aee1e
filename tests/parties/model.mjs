// A model that does what it is told: each `call TOOL ARGUMENTS` in what the user said has it call that tool, one after the
// other, and what the tools gave is its answer.
//
//   node model.mjs PORT
import { createServer } from 'node:http'

const CALLS = /call (\S+) (\{[^}]*\})/g
const words = (content) => (typeof content === 'string' ? content : (content ?? []).map((part) => part.text ?? '').join(''))

function answer({ messages, tools = [] }) {
  // The client may add messages of its own to what the user said.
  const told = messages.findLastIndex(({ role, content }) => role === 'user' && words(content).search(CALLS) >= 0)
  if (told < 0) return { content: 'Nothing to do.' }
  const done = messages.slice(told).filter(({ role }) => role === 'tool')
  const next = [...words(messages[told].content).matchAll(CALLS)][done.length]
  if (!next) return { content: done.map(({ content }, i) => `Tool ${i} said: ${words(content)}`).join('\n') }
  const [, id, args] = next
  // Tools stand for themselves, or behind the one that finds and calls them.
  const direct = tools.some((tool) => tool.function?.name === id)
  const called = direct ? { name: id, arguments: args } : { name: 'tool_call', arguments: JSON.stringify({ id, args: JSON.parse(args) }) }
  return { tool_calls: [{ index: 0, id: `call-${messages.length}`, type: 'function', function: called }] }
}

createServer((request, response) => {
  let body = ''
  request.on('data', (part) => (body += part))
  request.on('end', () => {
    if (!request.url.endsWith('/chat/completions')) return response.writeHead(404).end()
    const asked = JSON.parse(body)
    const delta = { role: 'assistant', ...answer(asked) }
    const reason = delta.tool_calls ? 'tool_calls' : 'stop'
    const chunk = (choice, more) => ({ id: 'mock', object: 'chat.completion.chunk', created: 0, model: asked.model, choices: choice, ...more })
    console.log(JSON.stringify({ tools: asked.tools?.map((tool) => tool.function.name), answer: delta }))
    if (!asked.stream) {
      response.writeHead(200, { 'content-type': 'application/json' })
      return response.end(JSON.stringify({ id: 'mock', object: 'chat.completion', created: 0, model: asked.model, choices: [{ index: 0, message: delta, finish_reason: reason }] }))
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const usage = { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 }
    for (const part of [chunk([{ index: 0, delta, finish_reason: null }]), chunk([{ index: 0, delta: {}, finish_reason: reason }], { usage })]) {
      response.write(`data: ${JSON.stringify(part)}\n\n`)
    }
    response.end('data: [DONE]\n\n')
  })
}).listen(Number(process.argv[2]), '127.0.0.1', () => console.log('listening'))
