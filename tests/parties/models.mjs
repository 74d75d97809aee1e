// OpenAI's, Anthropic's and Google's Node SDKs at the model gateway: whole and as streams, refused, and with an error of the
// provider's. Each line says which call it was, what came, and the receipt.
//
//   node models.mjs BASE PACKAGES
import { createRequire } from 'node:module'

const [, , base, packages] = process.argv
const require = createRequire(`${packages}/`)
const { default: OpenAI } = require('openai')
const { default: Anthropic } = require('@anthropic-ai/sdk')
const { GoogleGenAI } = require('@google/genai')

const chat = new OpenAI({ baseURL: `${base}/v1`, apiKey: 'dummy' })
const claude = new Anthropic({ baseURL: base, apiKey: 'dummy' })
const google = new GoogleGenAI({ apiKey: 'dummy', httpOptions: { baseUrl: base } })
const messages = [{ role: 'user', content: 'Say hello.' }]
const named = (nonce) => ({ headers: { 'X-Idempotency-Key': nonce } })
const receipt = async (nonce) => (await (await fetch(`${base}/v1/receipt/${nonce}`)).json()).receipt_envelope
const tell = (call, text, receipt) => console.log(JSON.stringify({ call, text, receipt }))
async function joined(stream, of) {
  let text = ''
  for await (const part of stream) text += of(part) ?? ''
  return text
}

const done = await chat.chat.completions.create({ model: 'gpt-test', messages })
tell('node-chat', done.choices[0].message.content, done._receipt_envelope)
let stream = await chat.chat.completions.create({ model: 'gpt-test', messages, stream: true }, named('node-chat-stream'))
let text = await joined(stream, (part) => part.choices[0].delta.content)
tell('node-chat-stream', text, await receipt('node-chat-stream'))

const response = await chat.responses.create({ model: 'gpt-test', input: 'Say hello.' })
tell('node-responses', response.output_text, response._receipt_envelope)
stream = await chat.responses.create({ model: 'gpt-test', input: 'Say hello.', stream: true }, named('node-responses-stream'))
text = await joined(stream, (part) => (part.type === 'response.output_text.delta' ? part.delta : ''))
tell('node-responses-stream', text, await receipt('node-responses-stream'))

const message = await claude.messages.create({ model: 'claude-test', max_tokens: 9, messages })
tell('node-messages', message.content[0].text, message._receipt_envelope)
stream = claude.messages.stream({ model: 'claude-test', max_tokens: 9, messages }, named('node-messages-stream'))
tell('node-messages-stream', await stream.finalText(), await receipt('node-messages-stream'))

const asked = (nonce) => ({ model: 'gemini-test', contents: 'Say hello.', config: { httpOptions: named(nonce) } })
const whole = await google.models.generateContent(asked('node-google'))
tell('node-google', whole.text, await receipt('node-google'))
text = await joined(await google.models.generateContentStream(asked('node-google-stream')), (part) => part.text)
tell('node-google-stream', text, await receipt('node-google-stream'))

const code = (error) => error.code ?? error.error?.error?.code ?? JSON.parse(error.message).error.code
const refused = (call, work) => work.then(() => tell(call, 'not refused'), (error) => tell(call, `${error.status} ${code(error)}`))
await refused('node-refused-chat', chat.chat.completions.create({ model: 'other', messages }))
await refused('node-refused-messages', claude.messages.create({ model: 'other', max_tokens: 9, messages }))
await refused('node-refused-google', google.models.generateContent({ model: 'other', contents: 'x' }))
await chat.chat.completions.create({ model: 'overloaded', messages }, named('node-error')).catch(async (error) => {
  tell('node-error', error.error.message, await receipt('node-error'))
})
