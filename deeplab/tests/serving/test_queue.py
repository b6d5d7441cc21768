"""The work queue of the HTTP API: how many requests run and wait, and for how long."""

import asyncio
import threading

import pytest

pytest.importorskip("fastapi", reason="needs pip install 'deeplab-crf[app]'")
pytest.importorskip("httpx", reason="needs pip install 'deeplab-crf[app]'")

from deeplab.serving.limits import HTTPError, Limits
from deeplab.serving.queue import WorkQueue
from served_api import client_of, is_error
from stub_model import StubModel


def test_two_hundred_requests_at_once(tiny):
    release = threading.Event()
    model = StubModel(lambda: release.wait(20))

    async def talk():
        async with client_of(model, workers=2, waiting=5) as client:
            posts = [asyncio.create_task(client.post("/v1/segment", content=tiny)) for _ in range(200)]
            while sum(post.done() for post in posts) < 193 or model.running < 2:
                await asyncio.sleep(0.01)
            health = (await client.get("/healthz")).json()
            release.set()
            return health, await asyncio.gather(*posts)

    health, answers = asyncio.run(talk())
    assert (health["running"], health["waiting"], health["status"]) == (2, 5, "ok")
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [503] * 193
    assert model.max_running == 2
    assert model.done == 7
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert is_error(refused, 503, "busy", "7 photos")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_request_is_refused_before_its_body_is_read_when_the_queue_is_full(tiny):
    release, read = threading.Event(), []

    async def body():
        read.append(1)
        yield tiny

    model = StubModel(lambda: release.wait(20))

    async def talk():
        async with client_of(model, workers=1, waiting=0) as client:
            first = asyncio.create_task(client.post("/v1/segment", content=tiny))
            while not model.running:
                await asyncio.sleep(0.01)
            second = await client.post("/v1/segment", content=body(), headers={"expect": "100-continue"})
            release.set()
            return second, await first, await client.post("/v1/segment", content=tiny)

    second, first, third = asyncio.run(talk())
    assert is_error(second, 503, "busy")
    assert not read
    assert first.status_code == third.status_code == 200


def test_timeouts_of_working_waiting_and_uploading(tiny):
    release = threading.Event()
    model = StubModel(lambda: release.wait(20))

    async def slow():
        await asyncio.sleep(20)
        yield tiny

    async def talk():
        async with client_of(model, workers=1, waiting=1, seconds=0.3) as client:
            working, waiting = await asyncio.gather(
                *(client.post("/v1/segment", content=tiny) for _ in range(2))
            )
            left = (await client.get("/healthz")).json()
            uploading = await client.post("/v1/segment", content=slow())
            release.set()
            while model.running:
                await asyncio.sleep(0.01)
            return working, waiting, uploading, left, await client.post("/v1/segment", content=tiny)

    working, waiting, uploading, left, after = asyncio.run(talk())
    assert is_error(working, 504, "too-slow")
    assert is_error(waiting, 503, "busy")
    assert int(waiting.headers["retry-after"]) >= 1
    assert is_error(uploading, 408, "slow-upload")
    assert (left["running"], left["waiting"]) == (1, 0)  # a thread cannot be stopped, and occupies its slot
    assert after.status_code == 200
    assert model.max_running == 1


def test_a_work_queue_that_is_closed_refuses_jobs():
    queue = WorkQueue(1, 1)

    async def talk():
        with queue, queue.slot() as slot:
            assert await slot.run(lambda: 1, seconds=5) == 1
        with queue.slot() as slot:
            await slot.run(lambda: 1, seconds=5)

    with pytest.raises(HTTPError) as caught:
        asyncio.run(talk())
    assert (caught.value.status, caught.value.kind) == (503, "stopping")
    assert (queue.running, queue.waiting) == (0, 0)


@pytest.mark.parametrize("field", ["bytes", "pixels", "seconds", "workers"])
def test_limits_are_above_zero(field):
    with pytest.raises(ValueError, match=f"got {field} = 0, wanted a number above 0"):
        Limits(**{field: 0})
    assert Limits(waiting=0).waiting == 0
