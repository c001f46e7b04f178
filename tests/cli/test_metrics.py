"""The listener of `--metrics-port`: each process has its own, with exactly what the page says, and nothing secret."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from starlette.responses import Response
from tests.fakes import completion, failure, fake_endpoint
from tests.harness import KEY, Client, chat_line, jsonl, plain_client, until
from tests.processes import ROOT, Process, batchyard, configure
from tests.scrapes import Scrape, scraped

PAGE = (ROOT / "docs/metrics.md").read_text()
SECRETS = ("telling-name", "telling-key", "telling-value", "telling-tenant", "telling-id", "telling-model", KEY)


def documented(*processes: str) -> dict[str, set[str]]:
    """The metrics that the page has for these processes, with their labels."""
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in PAGE.splitlines() if line.startswith("| `")]
    return {
        name.strip("`"): {label.strip("` ") for label in labels.split(",") if label}
        for name, _, labels, process, *_ in rows
        if process in processes
    }


async def unwilling(body: dict[str, Any], before: int) -> Response:
    """An endpoint whose first answer to `again` is an error."""
    return failure(500) if body["messages"][-1]["content"] == "again" and not before else completion(body)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Process, httpx.AsyncClient, Client]]:
    """`batchyard serve` with metrics, and clients of both its halves."""
    async with fake_endpoint(unwilling) as endpoint:
        configure(folder, api_base=endpoint.api_base)
        account = {"OPENAI_API_KEY": "telling-key", "OPENAI_BASE_URL": endpoint.api_base}
        with batchyard(folder, "serve", "--metrics-port", "0", environ=account) as served:
            rest = f"http://127.0.0.1:{await served.port('REST on')}"
            bearer = {"authorization": f"Bearer {KEY}"}
            async with (
                plain_client(base_url=rest, headers=bearer, timeout=60) as http,
                grpc.aio.insecure_channel(f"127.0.0.1:{await served.port('gRPC on')}") as channel,
            ):
                yield served, http, Client(channel)


async def of(served: Process) -> Scrape:
    return await scraped(await served.port("metrics on"))


async def used(http: httpx.AsyncClient, client: Client) -> None:
    """An upload, a batch whose first call fails, a download, health and errors, with names that would be seen."""
    data = jsonl([chat_line("telling-id", "again", model="telling-model")])
    form = {"data": {"purpose": "batch"}, "files": {"file": ("telling-name.jsonl", data)}}
    file = (await http.post("/v1/files", **form)).json()  # type: ignore[arg-type]
    request = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = (await http.post("/v1/batches", json={**request, "metadata": {"telling-key": "telling-value"}})).json()
    ended = await client.ended(made["id"])
    assert (await http.get(f"/v1/files/{ended.output_file_id}/content")).status_code == 200
    assert (await http.get("/health")).json()["healthy_count"] == 1
    for path in ("/v1/batches/telling-id", "/telling-tenant/v1/files/telling-id", "/telling-name?key=telling-key"):
        wrong = {"authorization": "Bearer telling-key"}
        assert (await http.get(path, headers=wrong)).status_code in {401, 404}


class TestServe:
    async def test_shows_exactly_what_the_page_names_and_nothing_secret(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (served, http, client):
            await used(http, client)
            seen = await until(lambda: of(served), lambda seen: seen.labels() == documented("both", "service", "shim"))
            ids = re.findall(r"(?:file-|batch_|req_)\w+", (await http.get("/v1/batches")).text)
        assert ids
        assert [secret for secret in (*SECRETS, *ids) if secret in seen.text] == []

    async def test_an_attacker_adds_no_series(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (served, http, _):

            async def strange(number: int) -> None:
                odd = f"{number:08x}"
                for method in ("GET", "PROPFIND", "DELETE"):
                    for path in (f"/{odd}", f"/v1/batches/{odd}", f"/{odd}/v1/files/{odd}", f"/v1/{odd}/{odd}/{odd}"):
                        await http.request(method, path)

            await strange(0)
            before = await of(served)
            await asyncio.gather(*map(strange, range(1, 100)))
            after = await of(served)
        name = "batchyard_rest_request_duration_seconds_count"
        assert after(name, route="-", method="-", status="404") == 100 * before(
            name, route="-", method="-", status="404"
        )
        assert after.series(name) == before.series(name)
        assert len(after.text.splitlines()) == len(before.text.splitlines())

    async def test_counts_the_bytes_of_each_transfer(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (served, http, _):
            form = {"data": {"purpose": "user_data"}, "files": {"file": ("a.txt", b"x" * 3_000_000)}}
            sent = http.build_request("POST", "/v1/files", **form)  # type: ignore[arg-type]
            size = int(sent.headers["content-length"])
            answer = await http.send(sent)
            content = f"/v1/files/{answer.json()['id']}/content"
            assert len((await http.get(content, headers={"range": "bytes=0-999999"})).content) == 1_000_000
            seen = await of(served)
        assert seen("batchyard_rest_received_bytes_total", route="/v1/files") == size
        assert seen("batchyard_rest_sent_bytes_total", route="/v1/files") == len(answer.content)
        assert seen("batchyard_rest_sent_bytes_total", route="/v1/files/{file_id}/content") == 1_000_000
        assert seen("batchyard_upload_bytes_total") == 3_000_000
        assert seen("batchyard_download_bytes_total") == 1_000_000

    async def test_answers_until_the_drain_is_over(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (served, _, _):
            metrics = await served.port("metrics on")
            rest = await served.port("REST on")
            _, writer = await asyncio.open_connection("127.0.0.1", rest)
            writer.write(
                b"POST /v1/files HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000\r\n"
                b"content-type: multipart/form-data; boundary=b\r\nauthorization: Bearer %b\r\n\r\n" % KEY.encode()
            )
            await until(lambda: scraped(metrics), lambda seen: seen("batchyard_rpcs_running", method="UploadFile") == 1)
            os.kill(served.pid, signal.SIGTERM)
            await until(lambda: refused(rest), bool)
            assert (await scraped(metrics))("batchyard_rest_requests_running") == 1
            writer.close()
            await until(lambda: refused(metrics), bool)


class TestTheHalves:
    async def test_each_show_what_the_page_says_that_they_have(self, tmp_path: Path) -> None:
        configure(tmp_path, echo=True)
        with batchyard(tmp_path, "service", "--metrics-port", "0") as service:
            target = f"127.0.0.1:{await service.port('gRPC on')}"
            with batchyard(tmp_path, "shim", "--metrics-port", "0", "--service", target) as shim:
                await shim.port("REST on")
                names: Mapping[str, Process] = {"service": service, "shim": shim}
                for name, process in names.items():
                    assert set((await of(process)).labels()) == set(documented("both", name))

    @pytest.mark.parametrize("command", ["serve", "service", "shim"])
    async def test_a_port_in_use_is_one_line(self, tmp_path: Path, command: str) -> None:
        configure(tmp_path, echo=True)
        async with asyncio.timeout(60), await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as taken:
            port = taken.sockets[0].getsockname()[1]
            with batchyard(tmp_path, command, "--metrics-port", str(port)) as served:
                with pytest.raises(AssertionError, match="ended with 1"):
                    await served.port("metrics on")
                last = served.log.read_text().splitlines()[-1]
        assert last == f"batchyard: can't listen on 127.0.0.1:{port}: Address already in use"

    async def test_without_the_setting_there_is_none(self, tmp_path: Path) -> None:
        configure(tmp_path, echo=True)
        with batchyard(tmp_path, "service") as served:
            await served.port("gRPC on")
            assert "metrics on" not in served.log.read_text()


class TestThePage:
    def test_asks_only_for_what_there_is(self) -> None:
        blocks = re.findall(r"```(?:promql|yaml)\n(.*?)```", PAGE, re.DOTALL)
        asked = {name for block in blocks for name in re.findall(r"batchyard_\w+", block)}
        plain = {re.sub("_(bucket|count|sum)$", "", name) for name in asked}
        assert plain
        assert plain <= set(documented("both", "service", "shim"))

    def test_asks_for_labels_that_there_are(self) -> None:
        asked = re.findall(r"(batchyard_\w+?)(?:_bucket|_count)?\{(\w+)", PAGE)
        labels = documented("both", "service", "shim")
        assert len(asked) > 3
        assert [(name, label) for name, label in asked if label not in labels[name]] == []

    def test_has_lines_stand_still_where_lines_are_counted_as_they_run(self) -> None:
        (rule,) = (line for line in PAGE.splitlines() if "batchyard_batches_in_progress{" in line)
        assert rule.count('{provider="local"}') == 2

    def test_has_rules_that_are_yaml(self) -> None:
        _, rules = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
        (group,) = yaml.safe_load(rules)["groups"]
        assert all({"alert", "expr", "for"} == set(rule) for rule in group["rules"])


async def refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
