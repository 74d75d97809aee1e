// Model providers in one: OpenAI's chat completions and responses, Anthropic's messages, Google's generateContent; each whole and
// as a stream. Each says "Hello, NAME." for a model NAME, and for each request a line says what came and what was sent.
//
//   node providers.mjs PORT
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'

const hash = (bytes) => createHash('sha256').update(bytes).digest('base64url')
const words = (model) => ['Hello', `, ${model}`, '.']
const event = (data, name) => `${name ? `event: ${name}\n` : ''}data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`

// Each API: its answer, and the events of its stream.
const apis = {
  '/v1/chat/completions': ({ model }) => {
    const of = (object, choice, more) => ({ id: 'chat-1', object, created: 0, model, choices: [{ index: 0, ...choice }], ...more })
    const usage = { prompt_tokens: 11, completion_tokens: 3, total_tokens: 14 }
    const whole = of('chat.completion', { message: { role: 'assistant', content: words(model).join('') }, finish_reason: 'stop' }, { usage })
    const delta = (content) => event(of('chat.completion.chunk', { delta: { content }, finish_reason: null }))
    const end = of('chat.completion.chunk', { delta: {}, finish_reason: 'stop' }, { usage })
    return [whole, [...words(model).map(delta), event(end), event('[DONE]')]]
  },
  '/v1/responses': ({ model }) => {
    const text = words(model).join('')
    const part = { type: 'output_text', text, annotations: [] }
    const message = { type: 'message', id: 'msg-1', role: 'assistant', status: 'completed', content: [part] }
    const usage = { input_tokens: 11, output_tokens: 3, total_tokens: 14 }
    const whole = { id: 'resp-1', object: 'response', created_at: 0, status: 'completed', model, output: [message], usage, tools: [] }
    const told = (type, more, n) => event({ type, sequence_number: n, ...more }, type)
    const began = { response: { ...whole, status: 'in_progress', output: [], usage: null } }
    const where = { item_id: 'msg-1', output_index: 0, content_index: 0 }
    return [whole, [
      told('response.created', began, 0),
      told('response.output_item.added', { output_index: 0, item: { ...message, content: [], status: 'in_progress' } }, 1),
      told('response.content_part.added', { ...where, part: { ...part, text: '' } }, 2),
      ...words(model).map((delta, i) => told('response.output_text.delta', { ...where, delta, logprobs: [] }, 3 + i)),
      told('response.completed', { response: whole }, 6),
    ]]
  },
  '/v1/messages': ({ model }) => {
    const text = words(model).join('')
    const message = { id: 'msg-1', type: 'message', role: 'assistant', model, stop_reason: 'end_turn', stop_sequence: null }
    const whole = { ...message, content: [{ type: 'text', text }], usage: { input_tokens: 11, output_tokens: 3 } }
    const told = (type, more) => event({ type, ...more }, type)
    return [whole, [
      told('message_start', { message: { ...message, content: [], stop_reason: null, usage: { input_tokens: 11, output_tokens: 1 } } }),
      told('content_block_start', { index: 0, content_block: { type: 'text', text: '' } }),
      told('ping', {}),
      ...words(model).map((text) => told('content_block_delta', { index: 0, delta: { type: 'text_delta', text } })),
      told('content_block_stop', { index: 0 }),
      told('message_delta', { delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: { output_tokens: 3 } }),
      told('message_stop', {}),
    ]]
  },
  google: ({ model }) => {
    const of = (text, more) => ({ candidates: [{ content: { role: 'model', parts: [{ text }] }, index: 0, ...more }], modelVersion: model })
    const usageMetadata = { promptTokenCount: 11, candidatesTokenCount: 3, totalTokenCount: 14 }
    const whole = { ...of(words(model).join(''), { finishReason: 'STOP' }), usageMetadata }
    return [whole, words(model).map((text, i) => event(i < 2 ? of(text) : { ...of(text, { finishReason: 'STOP' }), usageMetadata }))]
  },
}

createServer((request, response) => {
  const parts = []
  request.on('data', (part) => parts.push(part))
  request.on('end', async () => {
    const body = Buffer.concat(parts)
    const asked = JSON.parse(body.toString() || '{}')
    const { pathname } = new URL(request.url, 'http://provider')
    const [, model, does] = pathname.match(/^\/v1beta\/models\/([^:]+):(\w+)$/) ?? []
    const api = model ? apis.google : apis[pathname]
    const [whole, events] = api?.({ ...asked, model: model ?? asked.model }) ?? []
    const streamed = asked.stream || does === 'streamGenerateContent'
    const failing = (model ?? asked.model) === 'overloaded'
    const status = !api ? 404 : failing ? 400 : 200
    const pieces = status !== 200 ? ['{"error":{"type":"invalid_request_error","message":"no"}}'] : streamed ? events : [JSON.stringify(whole)]
    const credentials = ['authorization', 'x-api-key', 'x-goog-api-key'].flatMap((name) => request.headers[name] ?? [])
    console.log(JSON.stringify({ path: request.url, credentials, request: hash(body), response: hash(pieces.join('')) }))
    response.writeHead(status, { 'content-type': status === 200 && streamed ? 'text/event-stream' : 'application/json' })
    for (const piece of pieces) {
      response.write(piece)
      await new Promise((done) => setTimeout(done, 5))
    }
    response.end()
  })
}).listen(Number(process.argv[2]), '127.0.0.1', () => console.log('listening'))
