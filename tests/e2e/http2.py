"""A small HTTP/2 client that can open WebSockets (RFC 8441), over the h2 library.

connection = Http2(stack.haproxy)
connection.request("GET", "/api")                  # (status, headers, body)
ann = Http2Client(connection)                      # a RawClient on one stream of it
"""

from collections import defaultdict

from client import TIMEOUT_S, RawClient
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from stack import open_socket, unverified_tls


class Http2:
    def __init__(self, haproxy):
        context = unverified_tls()
        context.set_alpn_protocols(["h2"])
        self.sock = open_socket(haproxy.address(), tls=context)
        assert self.sock.selected_alpn_protocol() == "h2"
        self.headers, self.data, self.ended = {}, defaultdict(bytes), set()
        # Its checks would keep us from sending what a proper client never does.
        self._h2 = H2Connection(H2Configuration(validate_outbound_headers=False))
        self._h2.initiate_connection()
        self._flush()
        while self._h2.remote_settings.get(SettingCodes.MAX_CONCURRENT_STREAMS, 2**31) > 2**30:
            self.read()

    def speaks_websocket(self):
        """Whether the server has said so."""
        return self._h2.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL, 0) == 1

    def _flush(self):
        self.sock.sendall(self._h2.data_to_send())

    def read(self):
        """Takes in what comes next, for whatever stream."""
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the HTTP/2 connection has ended")
        for event in self._h2.receive_data(data):
            if isinstance(event, ResponseReceived):
                self.headers[event.stream_id] = {
                    name.decode(): value.decode() for name, value in event.headers
                }
            elif isinstance(event, DataReceived):
                self.data[event.stream_id] += event.data
                size = event.flow_controlled_length
                self._h2.acknowledge_received_data(size, event.stream_id)
            elif isinstance(event, StreamEnded | StreamReset):
                self.ended.add(event.stream_id)
        self._flush()

    def open(self, headers, *, end):
        """Sends a request's head; the number of its stream, when the answer's head is there."""
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, headers, end_stream=end)
        self._flush()
        while stream not in self.headers and stream not in self.ended:
            self.read()
        return stream

    def request(self, method, path, **pseudo):
        """(status, headers, body); pseudo: more pseudo headers."""
        head = {"method": method, "scheme": "https", "authority": "localhost", "path": path}
        head = {f":{name}": value for name, value in {**head, **pseudo}.items() if value}
        stream = self.open(list(head.items()), end=True)
        while stream not in self.ended:
            self.read()
        headers = self.headers.get(stream, {})
        return int(headers.get(":status", 0)), headers, self.data[stream]

    def send(self, stream, data, *, end=False):
        self._h2.send_data(stream, data, end_stream=end)
        self._flush()

    def close(self):
        self.sock.close()


class Stream:
    """One stream of a connection, as far as RawClient needs a socket."""

    def __init__(self, connection, number):
        self._connection, self._number = connection, number

    def settimeout(self, timeout):
        self._connection.sock.settimeout(timeout)

    def sendall(self, data):
        self._connection.send(self._number, data)

    def recv(self, _size):
        connection = self._connection
        while not connection.data[self._number]:
            if self._number in connection.ended:
                return b""
            connection.read()
        return connection.data.pop(self._number)

    def close(self):
        """The connection may have more streams, and is closed by itself."""


class Http2Client(RawClient):
    """A RawClient whose WebSocket is one stream of an Http2 connection."""

    def __init__(self, connection, path="/chat", **options):
        self._connection = connection
        super().__init__(None, path, **options)

    def _handshake(self, path, headers, subprotocol):
        head = {
            ":method": "CONNECT",
            ":protocol": "websocket",
            ":scheme": "https",
            ":authority": "localhost",
            ":path": path,
            "sec-websocket-version": "13",
            **headers,
        }
        if subprotocol:
            head["sec-websocket-protocol"] = subprotocol
        stream = self._connection.open(list(head.items()), end=False)
        self.sock = Stream(self._connection, stream)
        self.sock.settimeout(TIMEOUT_S)
        self.headers = self._connection.headers[stream]
        self.subprotocol = self.headers.get("sec-websocket-protocol")
        self.body = b""
        status = int(self.headers[":status"])
        self.status = 101 if status == 200 else status  # as RawClient knows it
