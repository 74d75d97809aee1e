// What the reference server offers: the tools, resources and prompts that the conformance suite knows by name.
import { setTimeout as sleep } from 'node:timers/promises'
import { CLIENT_ERROR, Failure, form, given, needs, roots, said, sample, text, tool, unsealed, word } from './shapes.mjs'
import { EXTENSION, TASK_METHODS, TASK_TOOLS } from './tasks.mjs'

export const SERVER = { name: 'reference', version: '1.0.0' }
export const CAPABILITIES = {
  tools: { listChanged: true }, prompts: { listChanged: true }, resources: { subscribe: true }, completions: {}, logging: {},
}
// The legacy era has nothing like it.
export const EXTENSIONS = { extensions: { [EXTENSION]: {} } }

const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=='
const WAV = Buffer.from('RIFF$\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\0\0\0\0', 'latin1').toString('base64')
const image = { type: 'image', data: PNG, mimeType: 'image/png' }
const embedded = (uri, mimeType, words) => ({ type: 'resource', resource: { uri, mimeType, text: words } })
async function elicited(context, properties) {
  const { params } = form('Please fill this in', properties, [])
  const { action, content } = await context.ask('elicitation/create', params)
  return said(text(`Elicitation completed: action=${action}, content=${JSON.stringify(content)}`))
}

const options = ['option1', 'option2', 'option3']
const titled = (first) => ['value1', 'value2', 'value3'].map((value, i) => ({ const: value, title: `${first} ${i + 1}` }))

export const TOOLS = {
  test_simple_text: tool('Says a text', () => said(text('This is a simple text response for testing.'))),
  test_image_content: tool('Shows an image', () => said(image)),
  test_audio_content: tool('Plays a sound', () => said({ type: 'audio', data: WAV, mimeType: 'audio/wav' })),
  test_embedded_resource: tool('Holds a resource', () =>
    said(embedded('test://embedded-resource', 'text/plain', 'This is an embedded resource content.'))),
  test_multiple_content_types: tool('Holds several kinds', () =>
    said(text('Multiple content types test:'), image, embedded('test://mixed-content-resource', 'application/json', '{"test":"data","value":123}'))),
  test_error_handling: tool('Fails', () => ({ isError: true, ...said(text('This tool intentionally returns an error for testing')) })),
  test_tool_with_logging: tool('Logs', async (_, context) => {
    for (const data of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
      context.notify('notifications/message', { level: 'info', logger: 'reference', data })
      await sleep(50)
    }
    return said(text('logged'))
  }),
  test_tool_with_progress: tool('Tells how far it is', async (_, context) => {
    for (const progress of [0, 50, 100]) {
      if (context.progress !== undefined) {
        context.notify('notifications/progress', { progressToken: context.progress, progress, total: 100 })
      }
      await sleep(50)
    }
    return said(text('done'))
  }),
  test_sampling: tool('Asks the client\'s model', async ({ arguments: { prompt } }, context) => {
    const { content } = await context.ask('sampling/createMessage', sample(prompt).params)
    return said(text(`LLM response: ${content.text}`))
  }, { prompt: word }, ['prompt']),
  test_elicitation: tool('Asks the person', async ({ arguments: { message } }, context) => {
    const asked = form(message, { username: { type: 'string', description: 'User\'s response' }, email: { type: 'string', description: 'User\'s email address' } })
    const { action, content } = await context.ask('elicitation/create', asked.params)
    return said(text(`User response: action=${action}, content=${JSON.stringify(content)}`))
  }, { message: word }, ['message']),
  test_elicitation_sep1034_defaults: tool('Asks with defaults', (_, context) => elicited(context, {
    name: { type: 'string', default: 'John Doe' },
    age: { type: 'integer', default: 30 },
    score: { type: 'number', default: 95.5 },
    status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
    verified: { type: 'boolean', default: true },
  })),
  test_elicitation_sep1330_enums: tool('Asks for a choice', (_, context) => elicited(context, {
    untitledSingle: { type: 'string', enum: options },
    titledSingle: { type: 'string', oneOf: titled('Option') },
    legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
    untitledMulti: { type: 'array', items: { type: 'string', enum: options } },
    titledMulti: { type: 'array', items: { anyOf: titled('Choice') } },
  })),
  // The stream ends before the answer, which comes on the one by which the client asks for the rest.
  test_reconnection: tool('Leaves, and answers later', async (_, context) => {
    context.leave()
    await sleep(100)
    return said(text('Reconnection test completed'))
  }),
  json_schema_2020_12_tool: {
    ...tool('Has a schema with much in it', () => said(text('called'))),
    inputSchema: {
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      type: 'object',
      $defs: { address: { $anchor: 'addressDef', type: 'object', properties: { street: word, city: word } } },
      properties: { name: word, address: { $ref: '#/$defs/address' }, contactMethod: { type: 'string', enum: ['phone', 'email'] }, phone: word, email: word },
      allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
      if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
      then: { required: ['phone'] },
      else: { required: ['email'] },
      additionalProperties: false,
    },
  },
  test_missing_capability: tool('Takes a client that has a model', (_, context) => {
    if (!context.capabilities.sampling) {
      throw new Failure(CLIENT_ERROR, 'Missing required client capability', { requiredCapabilities: { sampling: {} } })
    }
    return said(text('it has one'))
  }),
  test_streaming_elicitation: tool('Needs input', () => needs({ value: form('A value, please', { value: word }) })),
  test_logging_tool: tool('Logs if asked to', (_, context) => {
    if (context.logs) context.notify('notifications/message', { level: 'info', data: 'asked for' })
    return said(text('done'))
  }),
  test_trigger_tool_change: tool('Says that tools changed', (_, context) => {
    context.changed('tools')
    return said(text('changed'))
  }),
  test_trigger_prompt_change: tool('Says that prompts changed', (_, context) => {
    context.changed('prompts')
    return said(text('changed'))
  }),
  test_custom_header: tool('Has an argument that headers repeat', ({ arguments: { value } }) => said(text(value)),
    { value: { type: 'string', 'x-mcp-header': 'Value' } }, ['value']),
  test_input_required_result_elicitation: tool('Asks the person, and is called again', (params) => {
    const answers = given(params, 'user_name')
    const name = answers?.[0].content?.name
    return typeof name === 'string' ? said(text(`Hello, ${name}!`)) : needs({ user_name: form('What is your name?', { name: word }) })
  }),
  test_input_required_result_sampling: tool('Asks the model, and is called again', (params) => {
    const answers = given(params, 'capital_question')
    return answers ? said(text(answers[0].content?.text ?? '')) : needs({ capital_question: sample('What is the capital of France?') })
  }),
  test_input_required_result_list_roots: tool('Asks for roots, and is called again', (params) => {
    const answers = given(params, 'client_roots')
    return answers ? said(text(answers[0].roots.map((root) => root.uri).join(' '))) : needs({ client_roots: roots })
  }),
  test_input_required_result_request_state: tool('Has a state', (params) => {
    const ready = unsealed(params) === 'confirm' && given(params, 'confirm')
    return ready ? said(text('state-ok')) : needs({ confirm: form('Please confirm', { ok: { type: 'boolean' } }) }, 'confirm')
  }),
  test_input_required_result_multiple_inputs: tool('Asks for three things', (params) => {
    const ready = unsealed(params) === 'three' && given(params, 'user_name', 'greeting', 'client_roots')
    return ready ? said(text('all there')) : needs({
      user_name: form('What is your name?', { name: word }), greeting: sample('Generate a greeting', 50), client_roots: roots,
    }, 'three')
  }),
  test_input_required_result_multi_round: tool('Asks twice', (params) => {
    const state = unsealed(params)
    if (state === 'second' && given(params, 'step2')) return said(text('both answered'))
    if (state === 'first' && given(params, 'step1')) return needs({ step2: form('Step 2: What is your favorite color?', { color: word }) }, 'second')
    return needs({ step1: form('Step 1: What is your name?', { name: word }) }, 'first')
  }),
  test_input_required_result_tampered_state: tool('Knows its state', (params) => {
    const ready = unsealed(params) === 'mine' && given(params, 'confirm')
    return ready ? said(text('it is mine')) : needs({ confirm: form('Please confirm', { ok: { type: 'boolean' } }) }, 'mine')
  }),
  test_input_required_result_capabilities: tool('Asks for what the client has', (_, { capabilities }) => {
    const asked = {}
    if (capabilities.sampling) asked.model = sample('Anything')
    if (capabilities.elicitation) asked.person = form('Anything?', { anything: word })
    if (capabilities.roots) asked.roots = roots
    return needs(asked)
  }),
  ...TASK_TOOLS,
}

const RESOURCES = {
  'test://static-text': { mimeType: 'text/plain', text: 'This is the content of the static text resource.' },
  'test://static-binary': { mimeType: 'image/png', blob: PNG },
}
const user = (content) => ({ role: 'user', content })
const argument = (name) => ({ name, description: `The ${name}`, required: true })
const PROMPTS = {
  test_simple_prompt: { description: 'Simple', get: () => [user(text('This is a simple prompt for testing.'))] },
  test_prompt_with_arguments: {
    description: 'With arguments', arguments: [argument('arg1'), argument('arg2')],
    get: ({ arg1, arg2 }) => [user(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`))],
  },
  test_prompt_with_embedded_resource: {
    description: 'With a resource', arguments: [argument('resourceUri')],
    get: ({ resourceUri }) => [user(embedded(resourceUri, 'text/plain', 'Embedded resource content for testing.')), user(text('Please process the embedded resource above.'))],
  },
  test_prompt_with_image: { description: 'With an image', get: () => [user(image), user(text('Please analyze the image above.'))] },
  test_input_required_result_prompt: { description: 'Needs input' },
}
const listed = (things, key, hidden) => Object.entries(things).map(([name, thing]) => {
  const shown = { [key]: name, ...thing }
  for (const field of hidden) delete shown[field]
  return shown
})

export const METHODS = {
  'server/discover': () => ({ supportedVersions: ['2026-07-28'], capabilities: { ...CAPABILITIES, ...EXTENSIONS } }),
  ...TASK_METHODS,
  ping: () => ({}),
  'logging/setLevel': () => ({}),
  'resources/subscribe': () => ({}),
  'resources/unsubscribe': () => ({}),
  'completion/complete': ({ argument: { value } }) => ({ completion: { values: [`${value}1`, `${value}2`], total: 2, hasMore: false } }),
  'tools/list': () => ({ tools: listed(TOOLS, 'name', ['call']) }),
  'tools/call': async (params, context) => {
    const found = TOOLS[params.name]
    if (!found) throw new Failure(-32602, `Unknown tool: ${params.name}`)
    return found.call({ ...params, arguments: params.arguments ?? {} }, context)
  },
  'resources/list': () => ({
    resources: Object.entries(RESOURCES).map(([uri, { mimeType }]) => ({ uri, name: uri.slice(7), description: `A ${mimeType}`, mimeType })),
  }),
  'resources/templates/list': () => ({
    resourceTemplates: [{ uriTemplate: 'test://template/{id}/data', name: 'template', description: 'By id', mimeType: 'application/json' }],
  }),
  'resources/read': ({ uri }) => {
    const id = /^test:\/\/template\/([^/]+)\/data$/.exec(uri)?.[1]
    const made = id && { mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }
    const found = RESOURCES[uri] ?? made
    if (!found) throw new Failure(-32602, 'Resource not found', { uri })
    return { contents: [{ uri, ...found }] }
  },
  'prompts/list': () => ({ prompts: listed(PROMPTS, 'name', ['get']) }),
  'prompts/get': (params) => {
    if (params.name === 'test_input_required_result_prompt') {
      const answers = given(params, 'user_context')
      if (!answers) return needs({ user_context: form('What context should the prompt use?', { context: word }) })
      return { messages: [user(text(`Context: ${answers[0].content?.context}`))] }
    }
    const found = PROMPTS[params.name]
    if (!found) throw new Failure(-32602, `Unknown prompt: ${params.name}`)
    return { description: found.description, messages: found.get(params.arguments ?? {}) }
  },
}
