// The view of the mesh: the graph and the same as a table; and the view of one edge.

import { age } from './state.js';
import { draw, graph } from './graph.js';
import { facts, h, table } from './html.js';
import { bytes, plural, rate, PADLOCKS } from './words.js';
import { connectionTable, requestTable } from './connections.js';

const WINDOWS = [['60000', 'the last minute'], ['600000', 'the last 10 minutes'], ['3600000', 'the last hour'], ['all', 'all that is known']];

/** How far back the graph looks, in milliseconds. */
let since = 'all';

function entries(state) {
  const all = [...state.entries()];
  return since === 'all' ? all : all.filter((entry) => age(state, entry) <= Number(since));
}

/** Draws what is known of the mesh. */
export function mesh(state, { again }) {
  const seen = graph(state.proxies, entries(state));
  const upright = window.matchMedia('(max-width: 44rem)').matches;
  const refused = seen.links.reduce((sum, link) => sum + link.counts.refused, 0);
  const open = seen.links.filter(({ counts }) => counts.no > 0).length;
  const secured = seen.links.filter(({ all }) => all > 0).length - open;
  return [
    h('h1', { tabindex: '-1' }, 'Mesh'),
    h('div', { class: 'bar' },
      h('p', { class: 'summary' }, seen.links.length === 0
        ? 'Nobody has talked to anybody, as far as is known.'
        : `${plural(secured, 'edge')} without plaintext, ${open} with; ${plural(refused, 'refusal')}`),
      h('label', null, 'counts ', h('select', { onchange: (event) => { since = event.target.value; again(); } },
        WINDOWS.map(([value, words]) => h('option', { value, selected: value === since }, words))))),
    h('div', { class: 'drawing', tabindex: '0', role: 'region', 'aria-label': 'Graph, a link for each edge; the same follows as a table' },
      draw(seen, upright)),
    legend(),
    h('h2', null, 'Who talks to whom'),
    edgeTable(seen),
    h('h2', null, 'Sidecars'),
    sidecars(state),
  ];
}

function legend() {
  return h('ul', { class: 'legend', 'aria-label': 'Padlocks' }, Object.entries(PADLOCKS).map(([kind, { sign, words }]) =>
    h('li', null, h('span', { class: `badge ${kind}` }, sign), ` ${words}`)));
}

/** A padlock as a table shows it. */
export function padlock(kind, share) {
  const { sign, words } = PADLOCKS[kind];
  return [h('span', { class: `badge ${kind}` }, sign), ` ${words}${kind === 'mixed' ? ` (${Math.round(share * 100)} % secured)` : ''}`];
}

function edgeTable({ nodes, links }) {
  const label = (key) => nodes.find((node) => node.key === key)?.label ?? key;
  return table('Edges', ['From', 'To', 'Secured', 'New/s', 'To server', 'To client', 'Open', 'Known', 'Refused', 'Why'],
    links.map((link) => [link.key, [
      h('a', { href: `#/edge/${encodeURIComponent(link.key)}` }, label(link.src)), label(link.dst), padlock(link.padlock, link.share),
      rate(link.rates.begun), `${bytes(Math.round(link.rates.up))}/s`, `${bytes(Math.round(link.rates.down))}/s`,
      link.open, link.all, link.counts.refused, reasons(link)[0]?.[0] ?? '',
    ], link.padlock]), 'No edges yet: call a service of the mesh.');
}

/** Why its connections are as they are, the most frequent first. */
function reasons({ source, destination }) {
  const counts = new Map();
  for (const { edge } of [...source, ...destination]) counts.set(edge.reason, (counts.get(edge.reason) ?? 0) + 1);
  return [...counts].filter(([reason]) => reason).sort((one, other) => other[1] - one[1]);
}

function sidecars(state) {
  return table('Sidecars', ['Sidecar', 'Namespace', 'Identity', 'Ready', 'Policy', 'Admin API'], state.proxies.map((known) => [
    `p${known.number}`, [
      known.name, known.namespace ?? '',
      known.identity ?? '',
      known.down ? h('span', { class: 'wrong' }, `× does not answer: ${known.down}`)
        : known.ready ? [h('span', { class: known.ready.ready ? 'right' : 'wrong' }, known.ready.ready ? '√' : '×'), ` ${known.ready.because}`] : '',
      known.policy ? [`version ${known.policy.version}`, known.policy.lastError ? h('span', { class: 'wrong' }, ' × new resources were not taken') : null,
        known.policy.findings > 0 ? `, ${plural(known.policy.findings, 'finding')}` : ''] : '',
      known.url ?? 'this one',
    ], null]), 'No sidecar is shown.');
}

/** The view of one edge. */
export function edge(state, { parts: [key] }) {
  const seen = graph(state.proxies, [...state.entries()]);
  const link = seen.links.find((one) => one.key === key);
  if (!link) return [h('h1', { tabindex: '-1' }, 'Edge'), h('p', { class: 'empty' }, 'Nothing is known of this edge any more. ', h('a', { href: '#/mesh' }, 'Back to the mesh'))];
  const label = (one) => seen.nodes.find((node) => node.key === one)?.label ?? one;
  const all = [...link.source, ...link.destination];
  const every = (pick) => [...new Set(all.map(pick).filter(Boolean))].sort();
  const refused = link.destination.concat(link.source).filter(({ edge: { secured } }) => secured === 'refused');
  const plain = link.destination.filter(({ edge: { secured } }) => secured === 'no');
  const ids = new Set(all.map(({ proxy, connection }) => `${proxy}/${connection.id}`));
  const requests = state.proxies.flatMap(({ number, requests: list }) =>
    list.filter(({ connection }) => ids.has(`${number}/${connection}`)).map((request) => ({ proxy: number, request })));
  return [
    h('h1', { tabindex: '-1' }, `${label(link.src)} to ${label(link.dst)}`),
    h('p', { class: 'summary' }, padlock(link.padlock, link.share), figures(link)),
    facts([
      ['client proves', every(({ edge: { clientId } }) => clientId).map(line)],
      ['server proves', every(({ edge: { serverId } }) => serverId).map(line)],
      ['services', every(({ connection: { service } }) => service).map(line)],
      ['told by', [link.source.length > 0 ? line('the client’s sidecar') : null, link.destination.length > 0 ? line('the server’s sidecar') : null]],
      ['why', reasons(link).slice(0, 8).map(([reason, count]) => line(`${reason} (${plural(count, 'record')})`))],
      ['in plaintext come', addresses(plain)],
      ['refused were', addresses(refused)],
    ]),
    requests.length > 0 ? [h('h2', null, 'Requests that were refused'), requestTable(state, requests)] : null,
    h('h2', null, 'Connections'),
    connectionTable(state, all),
  ];
}

function figures({ all, open, counts, rates: { begun, up, down } }) {
  return `; ${plural(all, 'connection')} known, ${open} open, ${plural(counts.refused, 'refusal')}; now ${rate(begun)} new/s, ${bytes(Math.round(up))}/s to the server, ${bytes(Math.round(down))}/s to the client`;
}

function line(text) {
  return h('div', null, text);
}

/** The clients of `entries` by address, the most frequent first. */
function addresses(entries) {
  const counts = new Map();
  for (const { connection: { client } } of entries) {
    const address = client.replace(/:\d+$/, '');
    counts.set(address, (counts.get(address) ?? 0) + 1);
  }
  const sorted = [...counts].sort((one, other) => other[1] - one[1]);
  const more = sorted.length > 10 ? [line(`and ${sorted.length - 10} more`)] : [];
  return [...sorted.slice(0, 10).map(([address, count]) => line(`${address}: ${plural(count, 'connection')}`)), ...more];
}
