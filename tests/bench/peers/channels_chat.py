"""A chat as one is written with Django Channels, daphne and Redis: a group, and every text to it.

python channels_chat.py PORT REDIS_PORT
"""

import os
import sys

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from daphne.server import Server
from django.conf import settings
from django.urls import path

port, redis_port = map(int, sys.argv[1:])
os.environ["DJANGO_SETTINGS_MODULE"] = ""
# Its loop answers nobody for seconds when much is on the way; redis-py would give up after 5.
redis = {"host": "127.0.0.1", "port": redis_port}
redis |= {"socket_timeout": None, "socket_connect_timeout": None}
settings.configure(
    SECRET_KEY="of a benchmark",
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # Above its capacity a channel drops messages in silence; the default is 100.
            "CONFIG": {"hosts": [redis], "capacity": 100000},
        }
    },
)
django.setup()


class Chat(AsyncWebsocketConsumer):
    async def connect(self):
        await self.channel_layer.group_add("chat", self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard("chat", self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send("chat", {"type": "chat.message", "text": text_data})

    async def chat_message(self, event):
        await self.send(text_data=event["text"])


application = ProtocolTypeRouter({"websocket": URLRouter([path("chat", Chat.as_asgi())])})
Server(application, endpoints=[f"tcp:port={port}:interface=127.0.0.1"]).run()
