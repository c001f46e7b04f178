"""A provider that names what is another tenant's: nothing of it reaches the one who asked."""

from pathlib import Path

import grpc
from tests.deployments import at_deployment
from tests.harness import chat_lines, jsonl, refused, service, settings_for
from tests.providers.scene import CREATE, UPLOAD
from tests.statuses import told
from tests.upstream.faults import Answer
from tests.upstream.openai import fake_openai
from tests.upstream.quirks import Quirks

INPUT = jsonl(chat_lines(1))


async def test_an_answer_with_anothers_id_is_no_answer(tmp_path: Path) -> None:
    async with (
        fake_openai(Quirks(auto=False)) as fake,
        service(settings_for(tmp_path, **at_deployment("openai", fake))) as (_, master),
    ):
        mine, theirs = [master.having((await master.new_key(name))[1]) for name in ("team-a", "team-b")]
        file = await theirs.upload(INPUT, filename="secret.jsonl")
        batch = await theirs.create(file.id, metadata={"name": "secret"})
        fake.fault(Answer(200, {"object": "file", "id": file.id, "filename": "x"}), where=UPLOAD)
        async with refused(grpc.StatusCode.UNAVAILABLE) as errors:
            await mine.upload(INPUT)
        assert (told(errors[0]).reason, "secret" in str(errors[0])) == ("UNSURE", False)
        own = await mine.upload(INPUT)
        fake.fault(Answer(200, {"object": "batch", "id": batch.id, "status": "validating"}), where=CREATE)
        async with refused(grpc.StatusCode.UNAVAILABLE) as errors:
            await mine.create(own.id)
        assert (told(errors[0]).reason, "secret" in str(errors[0])) == ("UNSURE", False)
