// The line protocol of ../library.py.
'use strict';

const readline = require('node:readline');

const say = (...words) => process.stdout.write(`${words.join(' ')}\n`);
const hex = (text) => Buffer.from(text).toString('hex');

module.exports = {
  say,
  sayText: (text) => say('text', hex(text)),
  sayClose: (code, reason) => say('close', code, hex(reason) || '-'),
  // obey[command](...buffers) for each line
  read(obey) {
    readline.createInterface({ input: process.stdin }).on('line', (line) => {
      const [command, ...words] = line.split(' ');
      obey[command](...words.map((word) => Buffer.from(word, 'hex')));
    });
  },
};
