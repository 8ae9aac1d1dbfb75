// Lists of connections and of refused requests, and the view of all.

import { h, table } from './html.js';
import { bytes, micros, plural, time } from './words.js';

/** Rows of a table. */
const MOST = 200;

const STATES = [['all', 'all'], ['open', 'open'], ['ended', 'ended'], ['refused', 'refused'], ['plaintext', 'in plaintext']];

const asked = { state: 'all', text: '' };

/** What became of a connection, by one word that the table shows and the filter knows. */
function became({ connection, edge }) {
  if (edge?.secured === 'refused') return 'refused';
  return connection.reason ? 'ended' : 'open';
}

/** The view of all connections. */
export function connections(state, { again }) {
  const text = asked.text.toLowerCase();
  const fits = (entry) => (asked.state === 'all' || asked.state === became(entry) || (asked.state === 'plaintext' && entry.edge?.secured === 'no'))
    && (text === '' || words(state, entry).toLowerCase().includes(text));
  const all = [...state.entries()];
  const meant = all.filter(fits);
  const requests = state.proxies.flatMap(({ number, requests: list }) => list.map((request) => ({ proxy: number, request })));
  return [
    h('h1', { tabindex: '-1' }, 'Connections'),
    h('div', { class: 'bar' },
      h('label', null, 'show ', h('select', { onchange: (event) => { asked.state = event.target.value; again(); } },
        STATES.map(([value, label]) => h('option', { value, selected: value === asked.state }, label)))),
      h('label', null, 'with ', h('input', { type: 'search', placeholder: 'address, identity, reason …', oninput: (event) => { asked.text = event.target.value; again(); } })),
      h('p', { class: 'summary' }, `${meant.length} of ${all.length} that are known`)),
    connectionTable(state, meant),
    h('h2', null, 'Requests that were refused'),
    requestTable(state, requests),
  ];
}

function words(state, { proxy, connection, edge }) {
  const { client, originalDestination, service, reason, tls, looksLike, firstBytes, direction } = connection;
  return [state.proxies[proxy]?.name, client, originalDestination, service, reason, tls?.peer, looksLike, firstBytes?.sni, direction, edge?.src, edge?.dst].join(' ');
}

const SECURED = { mutual_tls: ['closed', 'mutual TLS'], tls: ['closed', 'TLS'], by_the_app: ['app', 'by the app'], no: ['open', 'plaintext'], refused: ['refused', 'refused'] };
const SIGNS = { closed: '√', app: '~', open: '×', refused: '⊘' };

/** The newest of `entries`, a link to each. */
export function connectionTable(state, entries) {
  const newest = [...entries].sort((one, other) => (one.connection.accepted < other.connection.accepted ? 1 : one.connection.accepted > other.connection.accepted ? -1 : other.connection.id - one.connection.id));
  const shown = newest.slice(0, MOST);
  return [
    table('Connections', ['Accepted', 'Told by', 'Connection', 'From', 'To', 'Secured', 'To server', 'To client', 'Lasted', 'End'],
      shown.map((entry) => row(state, entry)), 'No connection is known.'),
    newest.length > MOST ? h('p', { class: 'empty' }, `and ${plural(newest.length - MOST, 'older one')}`) : null,
  ];
}

function row(state, { proxy, connection, edge }) {
  const [kind, words] = SECURED[edge?.secured] ?? ['', ''];
  const { id, accepted, direction, client, originalDestination, service, bytesToServer, bytesToClient, durationMicros, reason } = connection;
  return [`${proxy}/${id}`, [
    h('a', { href: `#/connection/${proxy}/${id}` }, time(accepted)),
    state.proxies[proxy]?.name ?? '', `${direction} ${id}`, [edge?.src ?? client, h('span', { class: 'below' }, client)],
    [service ?? edge?.dst ?? '', h('span', { class: 'below' }, originalDestination ?? '')],
    kind ? [h('span', { class: `badge ${kind}` }, SIGNS[kind]), ` ${words}`] : '',
    bytes(bytesToServer), bytes(bytesToClient), micros(durationMicros), reason ?? 'open',
  ], kind];
}

/** Requests, `{proxy, request}`, the newest first. */
export function requestTable(state, requests) {
  const newest = [...requests].sort((one, other) => (one.request.received < other.request.received ? 1 : -1)).slice(0, MOST);
  return table('Refused requests', ['Received', 'Told by', 'Connection', 'Request', 'Status', 'Reason', 'Because'],
    newest.map(({ proxy, request }) => {
      const { received, connection, method, host, path, status, reason, authorization, detail } = request;
      return [null, [
        time(received), state.proxies[proxy]?.name ?? '', h('a', { href: `#/connection/${proxy}/${connection}` }, String(connection)),
        `${method} ${host ?? ''}${path ?? ''}`, status ?? '', reason, authorization?.because ?? detail ?? '',
      ], 'refused'];
    }), 'No request was refused in the last hour.');
}
