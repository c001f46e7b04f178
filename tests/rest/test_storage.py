"""A full store refuses uploads over REST, and a deletion makes room."""

from pathlib import Path

from tests.rest.conftest import opened, refusal

from batchyard.service.config.settings import Limits

MOST = 1 << 20


async def test_an_upload_that_does_not_fit_is_507_and_not_to_be_tried_again(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=Limits(max_stored_bytes=MOST)) as door:
        first = await door.upload(b"x" * MOST, purpose="user_data")
        files = {"file": ("a.txt", b"x" * MOST)}
        answer = await door.rest.post("/v1/files", data={"purpose": "user_data"}, files=files)
        assert "batchyard.limits.max_stored_bytes" in refusal(answer, 507)["message"]
        assert answer.headers["x-should-retry"] == "false"
        assert door.kept() == [first["id"]]
        assert (await door.rest.delete(f"/v1/files/{first['id']}")).status_code == 200
        await door.upload(b"x" * MOST, purpose="user_data")
