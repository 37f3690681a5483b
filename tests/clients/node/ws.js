// npm's ws.
'use strict';

const { WebSocket } = require('ws');
const { say, sayText, sayClose, read } = require('./line');

const [url, ...offered] = process.argv.slice(2);
const socket = new WebSocket(url, offered);

socket.on('open', () => {
  say('open', socket.protocol || '-');
  read({
    send: (text) => socket.send(text.toString()),
    fragments: (...texts) => texts.forEach((text, i) => socket.send(text.toString(), { fin: i === texts.length - 1 })),
    ping: () => socket.ping(),
    close: () => socket.close(),
  });
});
socket.on('message', (data) => sayText(data));
socket.on('pong', () => say('pong'));
socket.on('error', (error) => say('error', error.message));
socket.on('close', (code, reason) => {
  sayClose(code, reason);
  process.exit();
});
