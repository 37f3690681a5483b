// undici's WebSocket, which Node.js 22 and later has built in. It has no fragments and no pings.
'use strict';

const { WebSocket } = require('undici');
const { say, sayText, sayClose, read } = require('./line');

const [url, ...offered] = process.argv.slice(2);
const socket = new WebSocket(url, offered);

socket.onopen = () => {
  say('open', socket.protocol || '-');
  read({
    send: (text) => socket.send(text.toString()),
    close: () => socket.close(),
  });
};
socket.onmessage = (message) => sayText(message.data);
socket.onerror = (event) => say('error', event.message || 'no reason');
socket.onclose = (closed) => {
  sayClose(closed.code, closed.reason);
  process.exit();
};
