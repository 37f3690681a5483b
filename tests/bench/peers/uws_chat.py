"""A chat of uWebSockets, by socketify: one topic, and every text published to it.

python uws_chat.py PORT
"""

import sys

from socketify import App, AppListenOptions, CompressOptions, OpCode


def on_message(ws, message, opcode):
    app.publish("chat", message, OpCode.TEXT, False)


app = App()
app.ws(
    "/chat",
    {
        "compression": CompressOptions.DISABLED,
        "idle_timeout": 0,
        "max_backpressure": 64 * 1024 * 1024,
        "open": lambda ws: ws.subscribe("chat"),
        "message": on_message,
    },
)
app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"), lambda _: None)
# Not app.run(): that polls, for asyncio's sake, and would be measured too.
while True:
    app.loop.uv_loop.run_once()
