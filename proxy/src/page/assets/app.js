// The page: which view is shown, when it is drawn anew, and what is read out.

import { h, show } from './html.js';
import { State } from './state.js';
import { edge, mesh } from './mesh.js';
import { connection } from './connection.js';
import { connections } from './connections.js';
import { policies } from './policies.js';
import { certificates } from './certificates.js';

/** How often news are drawn at most, and how often something is read out, in milliseconds. */
const DRAW = 400;
const SAY = 3000;

const VIEWS = { mesh: ['Mesh', mesh], edge: ['Edge', edge], connections: ['Connections', connections], connection: ['Connection', connection], policies: ['Policies', policies], certificates: ['Certificates', certificates] };
/** The view that a link of the navigation stands for. */
const PART_OF = { edge: 'mesh', connection: 'connections' };

const state = new State();
const main = document.getElementById('main');
let drawn = 0;
let waiting = null;

function where() {
  const [name, ...parts] = location.hash.replace(/^#\//, '').split('/').map(decoded);
  return { name: Object.hasOwn(VIEWS, name) ? name : 'mesh', parts };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function draw() {
  waiting = null;
  drawn = performance.now();
  const { name, parts } = where();
  const [title, view] = VIEWS[name];
  show(main, h('div', { 'data-key': `${name}/${parts.join('/')}`, class: `view ${name}` }, view(state, { parts, again: soon })));
  document.title = `${[title, ...(name === 'connection' ? [parts[1]] : [])].join(' ')} · pillion`;
  for (const link of document.querySelectorAll('nav a')) {
    const here = link.getAttribute('href') === `#/${PART_OF[name] ?? name}`;
    if (here) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const live = document.getElementById('live');
  live.textContent = state.live.up ? '● live' : `○ ${state.live.why}`;
  live.className = `live ${state.live.up ? 'up' : 'down'}`;
  show(document.getElementById('notices'), notices());
}

/** Draws when the last time is long enough ago. */
function soon() {
  waiting ??= setTimeout(draw, Math.max(0, drawn + DRAW - performance.now()));
}

/** What a person should know whatever they look at. */
function notices() {
  const down = state.proxies.filter(({ down: why }) => why);
  const broken = state.proxies.filter(({ policy }) => policy?.lastError);
  return [
    down.map(({ name, down: why }) => h('p', { class: 'notice' }, `× ${name} does not answer: ${why}`)),
    broken.map(({ name, policy }) => h('p', { class: 'notice' }, `× ${name} has not taken the new resources: ${policy.lastError}`)),
  ];
}

const said = { at: 0, waiting: null, timer: null };

/** Reads out the newest of what happens, not more than a person can follow. */
function say(text) {
  said.waiting = text;
  said.timer ??= setTimeout(() => {
    said.at = performance.now();
    said.timer = null;
    show(document.getElementById('announcer'), h('span', null, said.waiting));
  }, Math.max(0, said.at + SAY - performance.now()));
}

function tell({ kind, proxy, connection: record, edge: of, policy, notAfter }) {
  const name = state.proxies[proxy]?.name ?? '';
  if (kind === 'connection' && of?.secured === 'refused') say(`${name} refused a connection from ${record.client}: ${record.reason}`);
  if (kind === 'request') say(`${name} refused a request`);
  if (kind === 'policy') say(policy.lastError ? `${name} has not taken new resources` : `${name} has new policies, version ${policy.version}`);
  if (kind === 'certificate') say(`${name} has a new certificate, valid until ${notAfter}`);
}

state.addEventListener('change', soon);
state.addEventListener('event', ({ detail }) => tell(detail));
window.addEventListener('hashchange', () => {
  draw();
  main.querySelector('h1')?.focus();
  window.scrollTo(0, 0);
});
window.matchMedia('(max-width: 44rem)').addEventListener('change', soon);
// Ages and rates change by themselves.
setInterval(soon, 1000);
state.start();
draw();
