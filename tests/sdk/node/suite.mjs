// The official SDK for Node against a server: `node suite.mjs URL KEY [LEFT_OUT...]`, beside a node_modules that has it.
//
// A URL that does not end in /v1 is the endpoint of an AzureOpenAI; checks that are named are left out.
// Prints a line for each check, "ok NAME" or "failed NAME" with the error after it; the exit code says whether all
// passed.

import assert from 'node:assert/strict'
import { createReadStream } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'

import OpenAI, { AzureOpenAI, toFile, toStreamingFile } from 'openai'

const PATIENCE = 60_000
const PAGES = 250
const ENDED = ['completed', 'failed', 'expired', 'cancelled']
const REQUEST_ID = /^req_[0-9a-f]{32}$/
const API_VERSION = '2025-04-01-preview'
const [baseURL, apiKey, ...leftOut] = process.argv.slice(2)

const client = opened()
const checks = new Map()

function check(name, run) {
  checks.set(name, run)
}

/** A client, of the kind that the URL is for. */
function opened(options = {}) {
  if (baseURL.endsWith('/v1')) return new OpenAI({ baseURL, apiKey, ...options })
  return new AzureOpenAI({ endpoint: baseURL, apiKey, apiVersion: API_VERSION, ...options })
}

/** A batch input of so many lines. */
function lines(count) {
  const requests = Array.from({ length: count }, (_, number) => ({
    custom_id: `request-${number}`,
    method: 'POST',
    url: '/v1/chat/completions',
    body: { model: 'test-model', messages: [{ role: 'user', content: `question ${number}` }] },
  }))
  return Buffer.from(requests.map((request) => `${JSON.stringify(request)}\n`).join(''))
}

async function upload(count = 3, by = client) {
  return by.files.create({ file: await toFile(lines(count), 'input.jsonl'), purpose: 'batch' })
}

function create(file, options = {}, by = client) {
  const batch = { input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' }
  return by.batches.create(batch, options)
}

async function ended(id) {
  for (const end = Date.now() + PATIENCE; ; await setTimeout(50)) {
    const batch = await client.batches.retrieve(id)
    if (ENDED.includes(batch.status)) return batch
    assert(Date.now() < end, `still ${batch.status}`)
  }
}

async function completed() {
  const batch = await ended((await create(await upload())).id)
  assert.equal(batch.status, 'completed')
  return batch
}

async function collected(listed) {
  const ids = []
  for await (const { id } of listed) ids.push(id)
  assert.equal(new Set(ids).size, ids.length)
  return ids
}

/** The error of this kind that a call must reject with. */
async function rejected(kind, call) {
  const error = await call.then(
    (answer) => assert.fail(`no error, but ${JSON.stringify(answer)}`),
    (error) => error,
  )
  assert(error instanceof kind, error)
  assert.match(error.requestID, REQUEST_ID)
  return error
}

/** A client, and how many requests it has sent. */
function counting() {
  const sent = { requests: 0 }
  const counted = (...request) => {
    sent.requests += 1
    return fetch(...request)
  }
  return [opened({ fetch: counted }), sent]
}

check('upload of a stream', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'suite-'))
  try {
    await writeFile(join(folder, 'stream.jsonl'), lines(3))
    const file = await client.files.create({ file: createReadStream(join(folder, 'stream.jsonl')), purpose: 'batch' })
    assert.deepEqual([file.filename, file.bytes, file.purpose], ['stream.jsonl', lines(3).length, 'batch'])
    assert.deepEqual([file.object, file.status, file.status_details], ['file', 'processed', null])
    assert.equal(file.expires_at, file.created_at + 2_592_000)
  } finally {
    await rm(folder, { recursive: true })
  }
})

check('upload of a buffer', async () => {
  const file = await client.files.create({ file: await toFile(lines(3), 'memory.jsonl'), purpose: 'batch' })
  assert.deepEqual([file.filename, file.bytes], ['memory.jsonl', lines(3).length])
  const content = await client.files.content(file.id)
  assert.deepEqual(Buffer.from(await content.arrayBuffer()), lines(3))
})

check('upload of pieces of an unknown number', async () => {
  const whole = lines(10_000)
  async function* pieces() {
    for (let start = 0; start < whole.length; start += 65_536) yield whole.subarray(start, start + 65_536)
  }
  const file = await client.files.create({ file: toStreamingFile(pieces(), 'pieces.jsonl'), purpose: 'batch' })
  const content = await client.files.content(file.id)
  assert.deepEqual(Buffer.from(await content.arrayBuffer()), whole)
})

check('upload with an expiry', async () => {
  const expires_after = { anchor: 'created_at', seconds: 3600 }
  const file = await client.files.create({ file: await toFile(lines(1), 'a.jsonl'), purpose: 'batch', expires_after })
  assert.equal(file.expires_at, file.created_at + 3600)
})

check('an upload is processed at once', async () => {
  const file = await upload()
  const options = { pollInterval: 50, maxWait: PATIENCE }
  assert.deepEqual({ ...(await client.files.waitForProcessing(file.id, options)) }, { ...file })
})

check('the life of a batch', async () => {
  const file = await upload()
  const made = await client.batches.create({
    input_file_id: file.id,
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
    metadata: { label: 'a' },
  })
  assert.deepEqual([made.status, made.input_file_id, made.object], ['validating', file.id, 'batch'])
  assert.deepEqual([made.metadata, made.errors, made.output_file_id], [{ label: 'a' }, null, null])
  const batch = await ended(made.id)
  assert.equal(batch.status, 'completed')
  assert.deepEqual(batch.request_counts, { total: 3, completed: 3, failed: 0 })
  assert(batch.usage.total_tokens > 0)
  const output = await client.files.retrieve(batch.output_file_id)
  assert.deepEqual([output.purpose, output.filename], ['batch_output', `${batch.id}_output.jsonl`])
})

check('a batch over a missing file fails', async () => {
  const batch = await ended((await create({ id: 'file-missing' })).id)
  assert.equal(batch.status, 'failed')
  assert.equal(batch.errors.object, 'list')
  assert.equal(batch.errors.data.length, 1)
})

check('content as text and as a stream', async () => {
  const { output_file_id } = await completed()
  const text = await (await client.files.content(output_file_id)).text()
  const answers = text.trimEnd().split('\n').map((line) => JSON.parse(line))
  assert.deepEqual(answers.map((answer) => answer.custom_id), ['request-0', 'request-1', 'request-2'])
  assert(answers.every((answer) => answer.response.status_code === 200))
  const pieces = []
  for await (const piece of (await client.files.content(output_file_id)).body) pieces.push(piece)
  assert.deepEqual(Buffer.concat(pieces), Buffer.from(text))
})

check('batches are listed page by page', async () => {
  const file = await upload(1)
  const made = []
  for (let number = 0; number < PAGES; number++) made.push((await create(file)).id)
  for (const limit of [100, 30]) {
    const listed = await collected(client.batches.list({ limit }))
    assert.deepEqual(listed.filter((id) => made.includes(id)), made.toReversed())
  }
  const page = await client.batches.list()
  assert.equal(page.data.length, 20)
  assert(page.hasNextPage())
})

check('files are listed page by page', async () => {
  const made = []
  for (let number = 0; number < 12; number++) made.push((await upload(1)).id)
  for (const [order, expected] of [['asc', made], ['desc', made.toReversed()]]) {
    const listed = await collected(client.files.list({ limit: 5, order, purpose: 'batch' }))
    assert.deepEqual(listed.filter((id) => made.includes(id)), expected)
  }
})

check('cancel', async () => {
  const { id } = await create(await upload(5000))
  assert(['cancelling', 'cancelled'].includes((await client.batches.cancel(id)).status))
  const batch = await ended(id)
  assert.equal(batch.status, 'cancelled')
  assert(batch.cancelling_at <= batch.cancelled_at)
})

check('delete', async () => {
  const { id } = await upload()
  assert.deepEqual({ ...(await client.files.delete(id)) }, { id, object: 'file', deleted: true })
  await rejected(OpenAI.NotFoundError, client.files.retrieve(id))
})

check('not found', async () => {
  for (const method of ['retrieve', 'content', 'delete']) {
    const error = await rejected(OpenAI.NotFoundError, client.files[method]('file-missing'))
    assert.deepEqual([error.type, error.param, error.code], ['invalid_request_error', 'id', null])
    assert.equal(error.error.message, 'No such File object: file-missing')
  }
  const error = await rejected(OpenAI.NotFoundError, client.batches.retrieve('batch_missing'))
  assert.equal(error.error.message, "No batch found with id 'batch_missing'.")
})

check('bad request', async () => {
  const batch = { input_file_id: 'file-1', endpoint: '/v1/x', completion_window: '24h' }
  const error = await rejected(OpenAI.BadRequestError, client.batches.create(batch))
  assert.deepEqual([error.type, error.param, error.code], ['invalid_request_error', 'endpoint', 'invalid_value'])
  for (const [name, purpose] of [['a.csv', 'batch'], ['a.jsonl', 'fun']]) {
    const file = await toFile(Buffer.from('{}'), name)
    await rejected(OpenAI.BadRequestError, client.files.create({ file, purpose }))
  }
})

check('a wrong key', async () => {
  const stranger = opened({ apiKey: 'sk-wrong' })
  assert.equal((await rejected(OpenAI.AuthenticationError, stranger.batches.list())).code, 'invalid_api_key')
  assert.equal((await rejected(OpenAI.AuthenticationError, upload(1, stranger))).code, 'invalid_api_key')
})

check('an idempotency key', async () => {
  const [file, other] = [await upload(), await upload()]
  const options = { headers: { 'Idempotency-Key': 'from-node' } }
  const { id } = await create(file, options)
  assert.equal((await create(file, options)).id, id)
  const [counted, sent] = counting()
  await rejected(OpenAI.ConflictError, create(other, options, counted))
  assert.equal(sent.requests, 1)
})

check('a conflict is not tried again', async () => {
  const { id } = await completed()
  const [counted, sent] = counting()
  const error = await rejected(OpenAI.ConflictError, counted.batches.cancel(id))
  assert.equal(error.error.message, "Cannot cancel a batch with status 'completed'.")
  assert.equal(sent.requests, 1)
})

check('request ids', async () => {
  assert.match((await upload())._request_id, REQUEST_ID)
  const { response, request_id } = await client.batches.list().withResponse()
  assert.match(request_id, REQUEST_ID)
  assert.equal(response.headers.get('x-request-id'), request_id)
})

check('a provider in the path', async () => {
  const local = new OpenAI({ baseURL: baseURL.replace(/v1$/, 'local/v1'), apiKey })
  const file = await upload(1, local)
  const { id } = await create(file, {}, local)
  assert.equal((await local.batches.retrieve(id)).input_file_id, file.id)
  assert((await local.batches.list({ limit: 1 })).data.some((batch) => batch.id === id))
  const unknown = new OpenAI({ baseURL: baseURL.replace(/v1$/, 'unknown/v1'), apiKey })
  await rejected(OpenAI.BadRequestError, unknown.batches.retrieve(id))
})

for (const [name, run] of checks) {
  if (leftOut.includes(name)) continue
  try {
    await run()
    console.log(`ok ${name}`)
  } catch (error) {
    process.exitCode = 1
    console.log(`failed ${name}\n${error.stack}`)
  }
}
