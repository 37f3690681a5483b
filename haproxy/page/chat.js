// The page at /: one connection that speaks protocol v1 (docs/protocol.md), and a list of messages.
//
// v1 replies carry no request id, so one request at a time is in the air and any answer is its answer:
//
//   connect -> login -> load (the history) -> loaded -> send, and its own broadcast or an error -> send
//   lost -> wait -> connect: what is on screen stays, the history adds what was missed
//
// What comes from outside enters the document as textContent, never as markup.

const KEEP = 500; // messages on screen, and asked of the history; the server gives what it has
const ANSWER_MS = 15000; // no answer for so long: the connection is dead (a login may take the server 10 s)
const BACKOFF_MS = 1000;
const BACKOFF_MAX_MS = 30000;
const STABLE_MS = 10000; // a connection that lasted so long makes the next wait short again
const STALE_MS = 30000; // no frame for so long: a page that wakes up asks whether its connection still works
const DRAW_MS = 30; // messages that arrive so close together are drawn at once
const GROUP_MS = 300000; // messages of one person so close together are shown under one name

const STATES = { ready: 'Connected', loading: 'Connected', waiting: 'Reconnecting…', off: 'Disconnected' };
const ENDED = {
  1000: 'The server has ended this session.',
  1003: 'The server refuses what this page sends.',
  1007: 'The server cannot read what this page sends.',
  1008: 'The server closed the connection after too many errors.',
  1009: 'The message was too big for the server.',
  4501: 'Too many failed logins.',
  4504: 'You are banned from this chat.',
};

const ui = Object.fromEntries([...document.querySelectorAll('[id]')].map((node) => [node.id, node]));
const maxBytes = Number(ui.box.dataset.maxBytes);

let socket = null;
let phase = 'off'; // off, waiting, connecting, login, asking (for another token), loading, ready
// The token lives in sessionStorage: it outlives a reload but goes with the tab, is not left for the next person at
// this machine, and unlike a cookie is sent by nobody but this page.
const kept = sessionStorage.getItem('token');
let who = kept ? { token: kept } : null; // or username and password, which are kept nowhere
let proven = who; // what logged in last
let refusals = 0; // of what is proven
let known = false; // ownId() was seen to be right
let heard = null; // who said what was sent here, with a username: the first such is taken for oneself
let attempts = 0;
let readySince = 0;
let lastFrame = 0;
let retryTimer, answerTimer;

let pending = null; // the text in the air
let returned = null; // the text that came back with an error

let shown = []; // { key, user, time, nodes }, oldest first
let fresh = []; // broadcasts not yet on screen: for the next drawing, or until the history came
let gap = false; // messages may be missing before the next one
let stuck = true; // the reader is at the end and wants to stay there
let unread = 0; // below the reader's view

// --- The connection ---

function connect() {
  release();
  fresh = [];
  setPhase('connecting');
  const own = (socket = new WebSocket(location.origin.replace(/^http/, 'ws') + '/chat'));
  own.onopen = () => own === socket && login();
  own.onmessage = ({ data }) => own === socket && receive(JSON.parse(data));
  own.onclose = ({ code, reason }) => own === socket && lost(code, reason);
  awaitAnswer();
}

function release() {
  clearTimeout(retryTimer);
  clearTimeout(answerTimer);
  const old = socket;
  socket = null; // first: its close event is no longer ours
  old?.close();
}

function request(frame) {
  socket.send(JSON.stringify(frame));
  awaitAnswer();
}

function awaitAnswer() {
  clearTimeout(answerTimer);
  answerTimer = setTimeout(lost, ANSWER_MS, 1006);
}

function login() {
  setPhase('login');
  request({ action: 'login', ...who });
}

function load() {
  setPhase('loading');
  request({ action: 'history', limit: KEEP });
}

function receive(frame) {
  lastFrame = Date.now();
  if (typeof frame.error === 'string') {
    refused(frame.error);
  } else if (frame.info === 'connected' && phase === 'login') {
    if (who.token) sessionStorage.setItem('token', who.token);
    proven = who;
    refusals = 0;
    showScreen('chat');
    load();
  } else if (Array.isArray(frame.history) && phase === 'loading') {
    loaded(frame.history.reverse());
  } else if (typeof frame.message === 'string') {
    fresh.push(frame);
    if (fresh.length === 1) setTimeout(flush, DRAW_MS);
  }
}

// In a busy chat drawing each message by itself would be all the page does.
function flush() {
  if (phase === 'ready') arrived(fresh.splice(0));
}

function loaded(history) {
  clearTimeout(answerTimer);
  // Both end with the newest message; which goes back further depends on the server's history limit.
  merge(history.length < fresh.length ? fresh : history);
  fresh = [];
  if (pending !== null) notify('Not sent: the connection was lost.'); // or the history would have had it
  giveBack();
  readySince = Date.now();
  setPhase('ready');
}

function refused(error) {
  clearTimeout(answerTimer);
  if (phase === 'login') {
    // v1 says "not yet, I am starting" and "not you" in the same way: a token that has worked is tried again.
    if (who === proven && ++refusals < 5) lost(1006);
    else ask(error);
    if (error.includes('takes no passwords')) ui.account.hidden = true;
  } else if (phase === 'loading') {
    loaded([]);
    notify(`Earlier messages could not be loaded: ${error}`);
  } else {
    notify(pending === null ? error : `Not sent: ${error}`);
    giveBack();
  }
}

function lost(code, reason) {
  flush();
  release();
  if (phase === 'ready' && Date.now() - readySince > STABLE_MS) attempts = 0;
  if (code === 4002) {
    ask('Your token has expired. Please enter a new one.');
  } else if (code in ENDED || code >= 4500) {
    setPhase('off');
    giveBack();
    notify([ENDED[code] ?? `The server has closed this session (${code}).`, reason].filter(Boolean).join(' '), true);
  } else if (phase === 'asking') {
    setPhase('off'); // Join connects
  } else {
    // Full jitter: after a restart thousands of pages come back, and not all at once.
    const wait = Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** attempts++);
    retryTimer = setTimeout(connect, wait);
    setPhase('waiting');
    if (!ui.login.hidden) notify('The server cannot be reached. Trying again…');
  }
}

function wake() {
  if (document.hidden) return;
  if (phase === 'waiting') connect();
  else if (phase === 'ready' && pending === null && Date.now() - lastFrame > STALE_MS) load();
}

// --- Sending ---

const byteLength = (text) => new TextEncoder().encode(text).length;
const draft = () => ui.box.value.trim();
const canSend = () => phase === 'ready' && pending === null && draft() && byteLength(draft()) <= maxBytes;

function send() {
  if (!canSend()) return;
  const frame = { action: 'message', message: draft(), channel: ui.channel.value.trim() };
  pending = frame.message;
  returned = null;
  ui.box.value = '';
  notify('');
  ui.outbox.append(bubble({ ...frame, user_id: ownId() }));
  follow();
  request(frame);
  refresh();
}

// Its broadcast is the proof that a message was stored.
function confirm(message) {
  const own = message.user_id === ownId();
  known ||= own;
  if (!own && known) return;
  if (message.message === pending) {
    clearTimeout(answerTimer);
    clearPending();
  } else if (message.message === returned && draft() === returned) {
    ui.box.value = ''; // it was "not confirmed", and here it is after all
    returned = null;
    notify('');
  }
  refresh();
}

// What was not sent goes back into the box, before what has been typed since.
function giveBack() {
  if (pending === null) return;
  returned = pending;
  ui.box.value = [pending, ui.box.value].filter(Boolean).join('\n');
  clearPending();
  refresh();
}

function clearPending() {
  pending = null;
  ui.outbox.replaceChildren();
}

// v1 does not tell clients who they are, so this is a guess: a JWT's "sub", or a name of the dev identity.
function ownId() {
  if (who?.username) return heard ?? who.username;
  try {
    return JSON.parse(atob(who.token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'))).sub;
  } catch {
    return `dev-${who?.token}`;
  }
}

// --- The messages ---

// v1 messages have no id: the same person, second and text is the same message.
const keyOf = (m) => JSON.stringify([m.user_id, m.timestamp, m.channel, m.message]);

// Lays the server's view over the screen: keeps the longest run on which they agree, so that nothing jumps, and adds
// the rest.
function merge(log) {
  const keys = log.map(keyOf);
  let end = 0; // of the run, on screen
  let same = 0; // its length
  shown.forEach((_, start) => {
    let n = 0;
    while (n < keys.length && shown[start + n]?.key === keys[n]) n++;
    if (n > 0 && n >= same) [end, same] = [start + n, n];
  });
  if (same > 0) discard(shown.splice(end));
  else if (keys.includes(shown[0]?.key)) discard(shown.splice(0)); // the server goes back further
  else gap = shown.length > 0;
  arrived(log.slice(same));
  ui.empty.hidden = shown.length > 0;
}

function arrived(list) {
  list.forEach(append);
  if (stuck) follow();
  else showUnread(unread + list.length);
}

function append(message) {
  const user = message.user_id;
  if (message.message === pending) heard ??= user;
  const time = new Date(message.timestamp * 1000);
  const last = shown.at(-1);
  const item = bubble(message, time);
  const nodes = [item];
  if (last?.time.toDateString() !== time.toDateString()) nodes.unshift(element('li', 'divider', dayOf(time)));
  if (gap && last) nodes.unshift(element('li', 'divider', 'Messages may be missing here'));
  if (nodes.length === 1 && last.user === user && time - last.time < GROUP_MS) item.classList.add('follows');
  gap = false;
  ui.messages.append(...nodes);
  ui.empty.hidden = true;
  shown.push({ key: keyOf(message), user, time, nodes });
  if (shown.length > KEEP) {
    discard(shown.splice(0, 1));
    shown[0].nodes.at(-1).classList.remove('follows'); // its name went with the one before
  }
  confirm(message);
}

function bubble(message, time) {
  const item = element('li', message.user_id === ownId() ? 'own' : '');
  const name = message.nickname || message.user_id;
  const avatar = element('span', 'avatar', [...name][0]);
  avatar.ariaHidden = 'true';
  item.style.setProperty('--hue', hueOf(message.user_id));
  const body = element('div', 'body');
  body.append(element('bdi', 'name', name));
  if (message.channel) body.append(element('bdi', 'room', `#${message.channel}`));
  const text = element('p', 'text', message.message);
  text.dir = 'auto';
  const stamp = element('time', '', time ? clockOf(time) : 'Sending…');
  if (time) stamp.dateTime = time.toISOString();
  body.append(text, stamp);
  item.append(avatar, body);
  return item;
}

const clockOf = new Intl.DateTimeFormat([], { hour: '2-digit', minute: '2-digit' }).format;
const dayOf = new Intl.DateTimeFormat([], { weekday: 'long', day: 'numeric', month: 'long' }).format;

function element(tag, className, text = '') {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

function discard(entries) {
  for (const { nodes } of entries) nodes.forEach((node) => node.remove());
}

// A colour for a person, the same on every screen.
function hueOf(text) {
  return [...text].reduce((hash, char) => (hash * 31 + char.codePointAt(0)) % 360, 0);
}

function follow() {
  stuck = true;
  ui.scroller.scrollTop = ui.scroller.scrollHeight;
  showUnread(0);
}

function showUnread(count) {
  unread = count;
  ui.newer.hidden = count === 0;
  ui.newer.textContent = count === 1 ? '1 new message' : `${count} new messages`;
}

// --- Around them ---

function setPhase(next) {
  phase = next;
  ui.state.dataset.phase = next;
  ui.state.textContent = STATES[next] ?? 'Connecting…';
  ui.retry.hidden = next !== 'waiting';
  ui.join.textContent = ['connecting', 'login', 'waiting'].includes(next) ? 'Joining…' : 'Join';
  refresh();
}

function refresh() {
  const bytes = byteLength(draft());
  ui.send.disabled = !canSend();
  ui.count.hidden = bytes < maxBytes * 0.8;
  ui.count.textContent = bytes > maxBytes ? `${bytes - maxBytes} bytes too long` : `${bytes} of ${maxBytes} bytes`;
  ui.count.classList.toggle('over', bytes > maxBytes);
}

function notify(text, ended = false) {
  ui.problem.textContent = text;
  ui.notice.hidden = !text;
  ui.again.hidden = !ended || ui.chat.hidden;
  if (stuck) follow();
}

function showScreen(name) {
  if (!ui[name].hidden) return;
  notify('');
  ui.login.hidden = name !== 'login';
  ui.chat.hidden = name !== 'chat';
  (name === 'login' ? ui.join : ui.composer).before(ui.notice);
  // Not on a phone: there, focus opens the keyboard over what the person came to read.
  if (!matchMedia('(pointer: coarse)').matches) (name === 'login' ? ui.token : ui.box).focus();
}

function ask(why) {
  sessionStorage.removeItem('token');
  proven = null;
  giveBack();
  showScreen('login');
  setPhase(socket ? 'asking' : 'off');
  notify(why);
}

ui.entry.onsubmit = (event) => {
  event.preventDefault();
  const [token, username, password] = [ui.token.value.trim(), ui.username.value.trim(), ui.password.value];
  who = token ? { token } : username && password ? { username, password } : null;
  notify(who ? '' : 'Please enter a token, or a username and its password.');
  attempts = 0;
  known = false;
  heard = null;
  if (!who) return;
  if (phase === 'asking') login();
  else connect();
};

ui.logout.onclick = () => {
  release();
  ask('');
  ui.token.value = ui.username.value = ui.password.value = ui.box.value = '';
  discard(shown.splice(0));
};

ui.again.onclick = () => {
  notify('');
  connect();
};

ui.composer.onsubmit = (event) => {
  event.preventDefault();
  send();
};

ui.composer.onkeydown = (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.target === ui.send) return;
  event.preventDefault();
  send();
};

ui.scroller.onscroll = () => {
  stuck = ui.scroller.scrollHeight - ui.scroller.scrollTop - ui.scroller.clientHeight < 48;
  if (stuck) showUnread(0);
};

ui.box.oninput = refresh;
ui.retry.onclick = connect;
ui.newer.onclick = follow;
document.onvisibilitychange = wake;
window.ononline = wake;
new ResizeObserver(() => stuck && follow()).observe(ui.scroller);

// iOS lays its keyboard over the page and tells only the visual viewport.
visualViewport.onresize = () => {
  if (visualViewport.scale === 1) document.body.style.setProperty('--height', `${visualViewport.height}px`);
};

showScreen(who ? 'chat' : 'login');
if (who) connect();
