"""The README's commands and the examples run as pasted, against `batchyard serve` on free ports."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT


async def pasted(script: str, ports: tuple[int, int], folder: Path) -> str:
    """What a shell prints for a script, with this server's ports.

    `.venv/bin` are the commands beside this Python; without that before them the shell finds none of these.
    """
    for printed, real in zip(("localhost:4000", "localhost:50051"), ports, strict=True):
        script = script.replace(printed, f"localhost:{real}")
    beside = os.path.dirname(sys.executable)
    script = script.replace(".venv/bin", beside).replace("docs/examples", str(ROOT / "docs/examples"))
    path = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if folder != beside)
    environ = {**os.environ, "PATH": path, "BATCHYARD_SERVICE_ADDRESS": f"localhost:{ports[1]}"}
    ran = await asyncio.create_subprocess_exec(
        "bash", "-eu", "-c", script, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, complaints = await asyncio.wait_for(ran.communicate(), 60)
    assert ran.returncode == 0, complaints.decode()
    return said.decode()


async def test_the_readmes_commands_take_a_batch_from_upload_to_results(ports: tuple[int, int], tmp_path: Path) -> None:
    rest, command, grpc = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    printed = await pasted(rest, ports, tmp_path)
    assert '"custom_id":"task-0"' in printed
    assert '"content":"What is Altair Basic?"' in printed
    assert (await pasted(command, ports, tmp_path)).startswith("batch_")
    assert (tmp_path / "results.jsonl").read_text().count('"custom_id":"task-') == 2
    assert "BATCH_STATUS_COMPLETED" in await pasted(grpc, ports, tmp_path)


async def test_the_newest_batch_is_followed_to_its_end(ports: tuple[int, int], tmp_path: Path) -> None:
    scripts = [
        re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)[0]
        for name in ("README.md", "docs/rest.md")
    ]
    await pasted(scripts[0], ports, tmp_path)
    printed = await pasted(scripts[1], ports, tmp_path)
    assert printed.startswith("event: batch\nid: ")
    assert '"status":"completed"' in printed
    assert printed.endswith("event: end\nid: end\ndata: {}\n\n")


async def test_the_grpc_example_prints_the_results(ports: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "mydata.jsonl").write_text(re.findall(r"(\{\"custom_id.*\})", (ROOT / "README.md").read_text())[0])
    (command,) = re.findall(r"^    (\.venv/bin/python .*)$", (ROOT / "docs/grpc.md").read_text(), re.MULTILINE)
    printed = await pasted(f"{command} localhost:50051", ports, tmp_path)
    assert "BATCH_STATUS_COMPLETED, 1 of 1" in printed
    assert '"custom_id":"task-0"' in printed


async def test_the_command_lines_page_works_as_pasted(ports: tuple[int, int], tmp_path: Path) -> None:
    lines = re.findall(r"^\{\"custom_id.*\}$", (ROOT / "README.md").read_text(), re.MULTILINE)
    (tmp_path / "mydata.jsonl").write_text("\n".join(lines))
    script = "".join(re.findall(r"```sh\n(.*?)```", (ROOT / "docs/cli.md").read_text(), re.DOTALL))
    printed = await pasted(script, ports, tmp_path)
    assert printed.count("completed  2 of 2 lines") == 2
    assert "it had ended already" in printed
    assert '"custom_id":"task-0"' in printed
    assert '"metadata":{"team":"search"}' in printed
    assert (tmp_path / "results.jsonl").read_text().count("\n") == 2
    assert (tmp_path / "errors.jsonl").read_text() == ""


async def test_the_keys_page_works_as_pasted(ports: tuple[int, int], tmp_path: Path) -> None:
    script = "".join(re.findall(r"```sh\n(.*?)```", (ROOT / "docs/keys.md").read_text(), re.DOTALL))
    printed = await pasted(script + 'echo "$KEY $NEW"', ports, tmp_path)
    assert re.search(r"key_\w{16}  team-a +nightly +active +20\S+ +local\n", printed)
    assert re.search(r"key_\w{16} revoked\n", printed)
    old, new = printed.split()[-2:]
    assert old.split("-")[:3] == new.split("-")[:3]
