"""Takes a batch of chat completions from its input file to its results, over gRPC.

python grpc_client.py mydata.jsonl [localhost:50051 [sk-1234]]
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from batchyard.v1 import (
    BatchServiceStub,
    BatchStatus,
    CreateBatchRequest,
    DownloadFileRequest,
    GetBatchRequest,
    UploadFileFinish,
    UploadFileMetadata,
    UploadFileRequest,
)

PIECE = 256 * 1024
ENDED = {
    BatchStatus.BATCH_STATUS_COMPLETED,
    BatchStatus.BATCH_STATUS_FAILED,
    BatchStatus.BATCH_STATUS_EXPIRED,
    BatchStatus.BATCH_STATUS_CANCELLED,
}


def upload_messages(path: Path) -> Iterator[UploadFileRequest]:
    yield UploadFileRequest(metadata=UploadFileMetadata(purpose="batch", filename=path.name))
    size = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            size += len(piece)
            yield UploadFileRequest(data=piece)
    yield UploadFileRequest(finish=UploadFileFinish(size=size))


def main(path: str, target: str = "localhost:50051", key: str = "sk-1234") -> None:
    metadata = (("authorization", f"Bearer {key}"),)
    with grpc.insecure_channel(target) as channel:
        service = BatchServiceStub(channel)
        file = service.UploadFile(upload_messages(Path(path)), metadata=metadata).file
        request = CreateBatchRequest(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        batch = service.CreateBatch(request, metadata=metadata).batch
        while batch.status not in ENDED:
            time.sleep(0.5)
            batch = service.GetBatch(GetBatchRequest(batch_id=batch.id), metadata=metadata).batch
        counts = batch.request_counts
        print(f"{batch.id}: {BatchStatus.Name(batch.status)}, {counts.completed} of {counts.total}", flush=True)
        for error in batch.errors.data:
            print(f"line {error.line}: {error.message}")
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            for message in service.DownloadFile(DownloadFileRequest(file_id=file_id), metadata=metadata):
                sys.stdout.buffer.write(message.data)


if __name__ == "__main__":
    main(*sys.argv[1:])
