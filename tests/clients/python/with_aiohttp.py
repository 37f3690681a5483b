"""aiohttp's client. It sends whole messages only, and keeps pongs to itself."""

import asyncio
import sys
import threading

import aiohttp
from line import commands, say, say_close


async def obey(socket, command, texts):
    if command == "send":
        await socket.send_str(texts[0].decode())
    elif command == "ping":
        await socket.ping()
    elif command == "close":
        await socket.close()


def read_commands(loop, socket):
    for command, texts in commands():
        asyncio.run_coroutine_threadsafe(obey(socket, command, texts), loop).result()


async def main(url, *offered):
    async with aiohttp.ClientSession() as session:
        try:
            socket = await session.ws_connect(url, protocols=offered)
        except aiohttp.ClientError as error:
            say("error", error)
            return
        say("open", socket.protocol or "-")
        loop = asyncio.get_running_loop()
        threading.Thread(target=read_commands, args=[loop, socket], daemon=True).start()
        while True:
            frame = await socket.receive()
            if frame.type is aiohttp.WSMsgType.TEXT:
                say("text", frame.data)
            elif frame.type is aiohttp.WSMsgType.CLOSE:
                say_close(frame.data, frame.extra)
                return
            else:
                say_close(socket.close_code, "")
                return


asyncio.run(main(*sys.argv[1:]))
