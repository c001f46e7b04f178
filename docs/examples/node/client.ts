// Takes a batch of chat completions from its input file to its results, over gRPC:
//
//   node client.ts mydata.jsonl [localhost:50051 [sk-1234]]

import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'

import * as grpc from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'

import type { ProtoGrpcType } from './types/batch_service.ts'
import type { Batch__Output } from './types/batchyard/v1/Batch.ts'
import type { BatchServiceClient } from './types/batchyard/v1/BatchService.ts'
import type { CreateBatchRequest } from './types/batchyard/v1/CreateBatchRequest.ts'
import type { CreateBatchResponse__Output } from './types/batchyard/v1/CreateBatchResponse.ts'
import type { DownloadFileResponse__Output } from './types/batchyard/v1/DownloadFileResponse.ts'
import type { File__Output } from './types/batchyard/v1/File.ts'
import type { UploadFileRequest } from './types/batchyard/v1/UploadFileRequest.ts'
import type { UploadFileResponse__Output } from './types/batchyard/v1/UploadFileResponse.ts'
import type { WatchBatchResponse__Output } from './types/batchyard/v1/WatchBatchResponse.ts'

const PIECE = 256 * 1024
// The contract, and google/api/annotations.proto, which it imports and protobufjs brings along.
const PROTOS = ['../../../protos', './node_modules/protobufjs'].map((path) =>
  fileURLToPath(new URL(path, import.meta.url)),
)

function connect(target: string): BatchServiceClient {
  const definition = loadSync('batchyard/v1/batch_service.proto', {
    includeDirs: PROTOS,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  })
  const { batchyard } = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType
  return new batchyard.v1.BatchService(target, grpc.credentials.createInsecure())
}

async function* uploadMessages(path: string): AsyncGenerator<UploadFileRequest> {
  yield { metadata: { purpose: 'batch', filename: basename(path) } }
  let size = 0
  for await (const data of createReadStream(path, { highWaterMark: PIECE })) {
    size += data.length
    yield { data }
  }
  yield { finish: { size } }
}

/** What a call hands to its callback. */
function answer<T>(call: (callback: grpc.requestCallback<T>) => unknown): Promise<T> {
  return new Promise((resolve, reject) => {
    call((error, value) => (error ? reject(error) : resolve(value!)))
  })
}

async function send(path: string, call: grpc.ClientWritableStream<UploadFileRequest>): Promise<void> {
  for await (const message of uploadMessages(path)) {
    if (!call.write(message)) await once(call, 'drain')
  }
  call.end()
}

async function upload(service: BatchServiceClient, path: string, key: grpc.Metadata): Promise<File__Output> {
  let sending: Promise<void> | undefined
  const answered = answer<UploadFileResponse__Output>((callback) => {
    sending = send(path, service.uploadFile(key, callback))
  })
  const [{ file }] = await Promise.all([answered, sending])
  return file!
}

/** The batch when it has ended: a watch streams it as it is, then at each change, and ends with it. */
async function ended(service: BatchServiceClient, batchId: string, key: grpc.Metadata): Promise<Batch__Output> {
  let last: Batch__Output | null = null
  for await (const { batch } of service.watchBatch({ batchId }, key) as AsyncIterable<WatchBatchResponse__Output>) {
    last = batch
  }
  return last!
}

async function main(path: string, target = 'localhost:50051', bearer = 'sk-1234'): Promise<void> {
  const key = new grpc.Metadata()
  key.set('authorization', `Bearer ${bearer}`)
  const service = connect(target)
  try {
    const file = await upload(service, path, key)
    const request: CreateBatchRequest = {
      inputFileId: file.id,
      endpoint: '/v1/chat/completions',
      completionWindow: '24h',
    }
    const created = await answer<CreateBatchResponse__Output>((callback) => service.createBatch(request, key, callback))
    const batch = await ended(service, created.batch!.id, key)
    const { completed, total } = batch.requestCounts!
    console.log(`${batch.id}: ${batch.status}, ${completed} of ${total}`)
    for (const error of batch.errors?.data ?? []) console.log(`line ${error.line}: ${error.message}`)
    for (const fileId of [batch.outputFileId, batch.errorFileId]) {
      if (!fileId) continue
      const content = service.downloadFile({ fileId }, key) as AsyncIterable<DownloadFileResponse__Output>
      for await (const { data } of content) process.stdout.write(data ?? '')
    }
  } finally {
    service.close()
  }
}

const [path, ...more] = process.argv.slice(2)
await main(path!, ...more)
