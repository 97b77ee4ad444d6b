"""`GET /metrics`: the numbers of the server, in the format that Prometheus reads."""

import re

import pytest

from tests.support.eventually import eventually
from tests.support.harness.server_harness import House

SAMPLE = re.compile(r'([a-z_]+)(?:\{([a-z]+)="([^"\\\n]*)"\})? ([0-9.e+-]+)')


def read(text: str) -> dict[tuple[str, str], float]:
    """Name and value of the label, and the number. Every family is announced, once, before its samples."""
    assert text.endswith("\n")
    announced: list[str] = []
    found: dict[tuple[str, str], float] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("gauge", "counter")
            announced.append(name)
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            assert match[1] == announced[-1], line
            assert (match[1], match[3] or "") not in found, line
            found[match[1], match[3] or ""] = float(match[4])
    assert len(set(announced)) == len(announced)
    return found


@pytest.mark.house(bystander=False, limits={"heartbeat_interval_s": 0.05})
async def test_the_numbers_are_those_of_the_server(house: House) -> None:
    room = await house.room(model="openai")
    client = house.new_client()
    (house.root / "asleep").mkdir()
    other = await client.create(house.root / "asleep")
    (await client.request("DELETE", f"/v1/clients/{client.client_id}")).expect(200)

    async def sleeps() -> bool:
        return (await client.post(f"/v1/workspaces/{other['id']}/evict")).status == 200

    await eventually(sleeps, what="a beat after the last call")
    run, call = await room.streaming()

    async def look() -> dict[tuple[str, str], float] | None:
        answer = (await client.get("/metrics")).expect(200)
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        numbers = read(answer.body.decode())
        return numbers if numbers["bulkhead_open_runs", ""] == 1 else None

    numbers = await eventually(look, what="a beat that tells of the run")
    assert numbers["bulkhead_workspaces", "ready"] == 1
    assert numbers["bulkhead_workspaces", "asleep"] == 1
    assert numbers["bulkhead_workspaces", "failed"] == 0
    assert numbers["bulkhead_event_streams", ""] == numbers["bulkhead_clients", ""] == 1
    assert numbers["bulkhead_worker_deaths", ""] == 0
    assert numbers["bulkhead_worker_resident_memory_bytes", room.id] > 1_000_000
    assert ("bulkhead_worker_resident_memory_bytes", other["id"]) not in numbers
    assert numbers["process_resident_memory_bytes", ""] > 1_000_000
    await call.reply("!")
    await room.ended(run)
