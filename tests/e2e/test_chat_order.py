"""/chat v1: one order for all. docs/protocol.md, "Order"."""

import asyncio
import contextlib
import json

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

WINDOW = 20  # a publisher's messages that are not back yet


async def join(stack, token):
    host, port = stack.haproxy.address()
    uri = f"ws://{host}:{port}/chat"
    # max_queue None: frames wait here, so that no client of the test is a slow one
    client = await connect(uri, compression=None, ping_interval=None, proxy=None, max_queue=None)
    await client.send(json.dumps({"action": "login", "token": token}))
    assert json.loads(await client.recv()) == {"info": "connected"}
    return client


async def publish(client, name, count):
    """Sends "<name> <number>" `count` times; returns all it received until its last came back."""
    seen, sent, back = [], 0, 0
    while back < count:
        while sent < count and sent - back < WINDOW:
            await client.send(json.dumps({"action": "message", "message": f"{name} {sent}"}))
            sent += 1
        frame = await client.recv()
        seen.append(frame)
        back += json.loads(frame)["nickname"] == name
    return seen


async def receive(client, count):
    return [await client.recv() for _ in range(count)]


class TestOrder:
    SETTINGS = {"RATE_MESSAGES": 0, "api": False}

    def test_ten_publishers_and_fifty_clients_see_one_order(self, stack):
        publishers, listeners, each = 10, 50, 60
        total = publishers * each
        names = [f"p{i}" for i in range(publishers)]

        async def run():
            async with asyncio.timeout(120), contextlib.AsyncExitStack() as clients:

                async def joined(name):
                    return await clients.enter_async_context(await join(stack, name))

                listening = [await joined(f"l{i}") for i in range(listeners)]
                talking = [await joined(name) for name in names]

                async def talk(client, name):
                    seen = await publish(client, name, each)
                    return seen + await receive(client, total - len(seen))

                return await asyncio.gather(
                    *(receive(client, total) for client in listening),
                    *(talk(client, name) for client, name in zip(talking, names, strict=True)),
                )

        views = asyncio.run(run())
        assert len(views) == publishers + listeners
        assert all(view == views[0] for view in views)
        texts = [json.loads(frame)["message"] for frame in views[0]]
        for name in names:
            mine = [text for text in texts if text.startswith(f"{name} ")]
            assert mine == [f"{name} {i}" for i in range(each)]

    def test_clients_come_and_go_meanwhile(self, stack):
        """A client that joins in the middle sees a run without holes from there on."""

        async def visit(number):
            client = await join(stack, f"visitor {number}")
            frames = await receive(client, 30)
            await client.close()
            return frames

        async def run():
            async with asyncio.timeout(120):
                listener, talker = await join(stack, "listener"), await join(stack, "talker")
                talking = asyncio.create_task(publish(talker, "talker", 3000))
                visits = [
                    frames
                    for _ in range(8)
                    for frames in await asyncio.gather(*(visit(i) for i in range(5)))
                ]
                all_frames = await receive(listener, 3000)
                await talking
                await asyncio.gather(listener.close(), talker.close())
                return all_frames, visits

        all_frames, visits = asyncio.run(run())
        assert len(visits) == 40
        place = {frame: i for i, frame in enumerate(all_frames)}
        for frames in visits:
            start = place[frames[0]]
            assert frames == all_frames[start : start + len(frames)]


class TestHistoryInABusyChat:
    SETTINGS = {"RATE_MESSAGES": 0, "api": False}

    def test_holds_exactly_what_was_broadcast_before_it(self, stack):
        different = 100  # replies with something said between one and the next

        async def observe(client):
            """[(what was broadcast so far, the reply)], asking again as soon as it is answered."""
            seen, replies = [], []
            while len({count for count, _ in replies if count >= 100}) < different:
                await client.send('{"action":"history","limit":100}')
                while True:
                    frame = await client.recv()
                    if frame.startswith('{"history":'):
                        replies.append((len(seen), frame))
                        break
                    seen.append(frame)
            return seen, replies

        async def run():
            async with asyncio.timeout(120), contextlib.AsyncExitStack() as clients:
                watching = [
                    await clients.enter_async_context(await join(stack, f"w{i}")) for i in range(2)
                ]
                talking = [
                    asyncio.create_task(publish(await join(stack, f"p{i}"), f"p{i}", 10**9))
                    for i in range(3)
                ]
                views = await asyncio.gather(*map(observe, watching))
                for task in talking:
                    task.cancel()
                ended = await asyncio.gather(*talking, return_exceptions=True)
                assert not [e for e in ended if isinstance(e, ConnectionClosed)]
                return views

        for seen, replies in asyncio.run(run()):
            # The first ones may hold messages from before this client's login.
            full = [(count, reply) for count, reply in replies if count >= 100]
            for count, reply in full:
                expected = seen[count - 100 : count]
                assert reply == '{"history":[' + ",".join(reversed(expected)) + "]}"
            for count, reply in replies:
                newest = json.loads(reply)["history"][: min(count, 100)]
                before = [json.loads(frame) for frame in seen[:count]][::-1][:100]
                assert newest == before


class TestOrderWithLatencyForFewerWrites(TestOrder, TestHistoryInABusyChat):
    SETTINGS = {"RATE_MESSAGES": 0, "FLUSH_INTERVAL_MS": 10, "api": False}
