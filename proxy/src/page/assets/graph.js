// Who talks to whom, put together from what all sidecars tell, and drawn from left to right. Pure but for the drawing: places
// depend on names and links alone, so that they do not move while traffic comes and goes.

import { rates } from './state.js';
import { host, plural, rate, bytes, PADLOCKS } from './words.js';
import { svg } from './html.js';

/** Nodes and links of `entries`. A peer is named by what it has proved, or by its own sidecar; else it is `unknown`. */
export function graph(proxies, entries) {
  const byIdentity = new Map();
  const byAddress = new Map();
  const dialled = new Map();
  for (const { number, identity } of proxies) if (identity) byIdentity.set(identity, number);
  for (const { proxy, connection } of entries) {
    if (connection.direction === 'inbound') {
      const own = host(connection.originalDestination);
      if (own && !/^(127\.|::1$)/.test(own)) byAddress.set(own, proxy);
    } else if (connection.dialledFrom) {
      dialled.set(connection.dialledFrom, proxy);
    }
  }
  const nodes = new Map();
  const node = (key, label, kind, below) => {
    if (!nodes.has(key)) nodes.set(key, { key, label, kind, below, proxy: kind === 'sidecar' ? Number(key.slice(1)) : null });
    return key;
  };
  const sidecar = (number) => node(`p${number}`, proxies[number].name, 'sidecar', proxies[number].namespace);
  const proved = (identity, label, namespace) => {
    const number = byIdentity.get(identity);
    return number === undefined ? node(`i${identity}`, label, 'identity', namespace) : sidecar(number);
  };
  const unknown = () => node('unknown', 'unknown', 'unknown', 'no identity is proved');

  for (const { number } of proxies) sidecar(number);
  const links = new Map();
  for (const entry of entries) {
    const { proxy, connection, edge } = entry;
    if (!edge || !proxies[proxy]) continue;
    let [src, dst] = [null, null];
    if (connection.direction === 'inbound') {
      dst = sidecar(proxy);
      const of = dialled.get(connection.client);
      src = edge.clientId ? proved(edge.clientId, edge.src, edge.srcNamespace) : of !== undefined ? sidecar(of) : unknown();
    } else {
      src = sidecar(proxy);
      const at = byAddress.get(host(connection.upstream));
      if (edge.serverId?.startsWith('spiffe://')) dst = proved(edge.serverId, edge.dst, edge.dstNamespace);
      else if (at !== undefined) dst = sidecar(at);
      else if (connection.service) dst = node(`s${edge.dst}`, edge.dst, 'service', 'service');
      else dst = node('outside', 'outside', 'unknown', 'no known service');
    }
    const key = `${src}→${dst}`;
    if (!links.has(key)) links.set(key, { key, src, dst, source: [], destination: [] });
    links.get(key)[connection.direction === 'inbound' ? 'destination' : 'source'].push(entry);
  }
  for (const link of links.values()) Object.assign(link, sums(link));
  return { nodes: sorted(nodes), links: sorted(links) };
}

function sorted(map) {
  return [...map.values()].sort((one, other) => (one.key < other.key ? -1 : 1));
}

/** What both ends tell is of the same connections: the greater number holds. */
function sums({ source, destination }) {
  const most = (count) => Math.max(count(source), count(destination));
  const of = (secured) => most((entries) => entries.filter(({ edge }) => edge.secured === secured).length);
  const counts = { mutual: of('mutual_tls'), tls: of('tls'), app: of('by_the_app'), no: of('no'), refused: of('refused') };
  const open = most((entries) => entries.filter(({ connection }) => !connection.reason).length);
  const [one, other] = [rates(source), rates(destination)];
  const now = { begun: Math.max(one.begun, other.begun), up: Math.max(one.up, other.up), down: Math.max(one.down, other.down) };
  const all = counts.mutual + counts.tls + counts.app + counts.no;
  return { counts, open, all, rates: now, padlock: padlock(counts), share: all === 0 ? 0 : (counts.mutual + counts.tls) / all };
}

/** Closed only where everything that passed was secured. */
export function padlock({ mutual, tls, app, no, refused }) {
  const secured = mutual + tls;
  if (secured + app + no === 0) return refused > 0 ? 'refused' : 'open';
  if (no === 0 && secured === 0) return 'app';
  if (no === 0) return 'closed';
  return secured + app === 0 ? 'open' : 'mixed';
}

/** A link in words. */
export function told(link, nodes) {
  const name = (key) => nodes.find((node) => node.key === key)?.label ?? key;
  const share = link.padlock === 'mixed' ? `, ${Math.round(link.share * 100)} % secured` : '';
  const refused = link.counts.refused > 0 ? `, ${plural(link.counts.refused, 'refusal')}` : '';
  return `${name(link.src)} to ${name(link.dst)}: ${PADLOCKS[link.padlock].words}${share}, ${plural(link.all, 'connection')}, ${link.open} open${refused}`;
}

/** A layer for each node, callers before those they call; of a circle one link goes back. */
export function layers(nodes, links) {
  const out = new Map(nodes.map(({ key }) => [key, []]));
  for (const { src, dst } of links) if (src !== dst) out.get(src).push(dst);
  const layer = new Map(nodes.map(({ key }) => [key, 0]));
  const seen = new Map();
  const order = [];
  const forward = [];
  const visit = (key) => {
    seen.set(key, 'open');
    for (const next of out.get(key)) {
      if (seen.get(next) === 'open') continue;
      forward.push([key, next]);
      if (!seen.has(next)) visit(next);
    }
    seen.set(key, 'done');
    order.unshift(key);
  };
  const called = new Set(links.filter(({ src, dst }) => src !== dst).map(({ dst }) => dst));
  const first = nodes.filter(({ key }) => !called.has(key));
  for (const { key } of [...first, ...nodes]) if (!seen.has(key)) visit(key);
  for (const key of order) {
    for (const [src, dst] of forward) if (src === key) layer.set(dst, Math.max(layer.get(dst), layer.get(src) + 1));
  }
  const all = [];
  for (const node of nodes) (all[layer.get(node.key)] ??= []).push(node);
  return all.filter(Boolean).map((row) => row.sort((one, other) => (one.label < other.label ? -1 : 1)));
}

const NODE = { width: 148, height: 50 };

/** Places for nodes, from left to right, or from top to bottom where there is little width. */
export function places(nodes, links, upright) {
  const rows = layers(nodes, links);
  const most = Math.max(1, ...rows.map((row) => row.length));
  const [along, across] = upright ? [150, 172] : [300, 104];
  const at = new Map();
  rows.forEach((row, layer) => {
    row.forEach((node, index) => {
      const [u, v] = [layer * along, (index + (most - row.length) / 2) * across];
      at.set(node.key, upright ? { x: v + 90, y: u + 46 } : { x: u + 90, y: v + 46 });
    });
  });
  const [length, breadth] = [Math.max(0, rows.length - 1) * along, (most - 1) * across];
  const size = upright ? { width: breadth + 180, height: length + 110 } : { width: length + 180, height: breadth + 110 };
  return { at, ...size };
}

/** Draws. */
export function draw({ nodes, links }, upright, chosen) {
  const { at, width, height } = places(nodes, links, upright);
  const pairs = new Set(links.map(({ src, dst }) => `${src}→${dst}`));
  return svg('svg', { class: 'graph', viewBox: `0 0 ${width} ${height}`, width, height, role: 'group', 'aria-label': 'Graph of the mesh' },
    links.map((link) => drawn(link, nodes, at, upright, pairs.has(`${link.dst}→${link.src}`), chosen)),
    nodes.map((node) => box(node, at.get(node.key))));
}

function drawn(link, nodes, at, upright, both, chosen) {
  const { path, middle } = curve(at.get(link.src), at.get(link.dst), upright, both);
  const { begun, up, down } = link.rates;
  const moving = up + down > 0 || begun > 0;
  const share = link.padlock === 'mixed' ? `${Math.round(link.share * 100)} %` : null;
  const counts = upright
    ? [link.all, link.counts.refused > 0 ? `⊘ ${link.counts.refused}` : null]
    : [link.all > 0 ? plural(link.all, 'connection') : null, link.counts.refused > 0 ? `${link.counts.refused} refused` : null];
  const figures = moving ? `${rate(begun)}/s · ${bytes(Math.round(up + down))}/s` : counts.filter(Boolean).join(' · ');
  return svg('a', {
    'data-key': `l${link.key}`, href: `#/edge/${encodeURIComponent(link.key)}`, 'aria-label': told(link, nodes),
    class: `link ${link.padlock}${link.key === chosen ? ' chosen' : ''}${moving ? ' moving' : ''}`,
  },
  svg('title', null, told(link, nodes)),
  svg('path', { class: 'reach', d: path }),
  svg('path', { class: 'line', d: path }),
  svg('g', { transform: `translate(${middle.x} ${middle.y})` },
    lock(link.padlock),
    svg('text', { class: 'figures', y: 27, 'text-anchor': 'middle' }, [share, figures].filter(Boolean).join(' · '))));
}

/** A line from the edge of one box to that of another, and where its padlock stands. */
function curve(from, to, upright, both) {
  const { width, height } = NODE;
  if (from === to) {
    const { x, y } = from;
    return {
      path: `M${x - 24} ${y + height / 2}c-10 44 58 44 48 0`,
      middle: { x, y: y + height / 2 + 26 },
    };
  }
  const ahead = upright ? to.y > from.y : to.x > from.x;
  const shift = both ? 13 : 0;
  const half = upright ? height / 2 : width / 2;
  const sign = ahead ? 1 : -1;
  const bend = ahead ? 0 : 58;
  const [a, b] = upright
    ? [{ x: from.x + sign * shift, y: from.y + sign * half }, { x: to.x + sign * shift, y: to.y - sign * half }]
    : [{ x: from.x + sign * half, y: from.y + sign * shift }, { x: to.x - sign * half, y: to.y + sign * shift }];
  const level = upright ? a.y === b.y + 2 * half * sign : a.x === b.x + 2 * half * sign;
  if (level) return side(from, to, upright);
  const middle = { x: (a.x + b.x) / 2 + (upright ? bend : 0), y: (a.y + b.y) / 2 + (upright ? 0 : bend) };
  const path = upright
    ? `M${a.x} ${a.y}C${a.x + bend * 1.3} ${(a.y + b.y) / 2},${b.x + bend * 1.3} ${(a.y + b.y) / 2},${b.x} ${b.y}`
    : `M${a.x} ${a.y}C${(a.x + b.x) / 2} ${a.y + bend * 1.3},${(a.x + b.x) / 2} ${b.y + bend * 1.3},${b.x} ${b.y}`;
  return { path, middle };
}

/** Between two of one layer. */
function side(from, to, upright) {
  const out = upright ? { x: 0, y: 60 } : { x: 110, y: 0 };
  const at = ({ x, y }) => (upright ? { x, y: y + NODE.height / 2 } : { x: x + NODE.width / 2, y });
  const [a, b] = [at(from), at(to)];
  return {
    path: `M${a.x} ${a.y}C${a.x + out.x} ${a.y + out.y},${b.x + out.x} ${b.y + out.y},${b.x} ${b.y}`,
    middle: { x: (a.x + b.x) / 2 + out.x * 0.75, y: (a.y + b.y) / 2 + out.y * 0.75 },
  };
}

/** A padlock by its shape: shut, standing open, half, or barred. */
export function lock(kind) {
  const body = svg('rect', { x: -9, y: -4, width: 18, height: 14, rx: 2.5 });
  const shackles = {
    closed: 'M-5.5 -4v-4.5a5.5 5.5 0 0 1 11 0v4.5',
    app: 'M-5.5 -4v-4.5a5.5 5.5 0 0 1 11 0v4.5',
    mixed: 'M-5.5 -4v-6.5a5.5 5.5 0 0 1 11 0v2',
    open: 'M5.5 -4v-5a5.5 5.5 0 0 1 11 0v2',
    refused: 'M-5.5 -4v-4.5a5.5 5.5 0 0 1 11 0v4.5',
  };
  return svg('g', { class: 'lock' },
    svg('circle', { class: 'ground', r: 17 }),
    svg('path', { class: 'shackle', d: shackles[kind] }),
    body,
    svg('text', { class: 'sign', y: 7, 'text-anchor': 'middle' }, PADLOCKS[kind].sign));
}

function box({ key, label, kind, below }, { x, y }) {
  const { width, height } = NODE;
  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  return svg('g', { 'data-key': `n${key}`, class: `node ${kind}`, transform: `translate(${x} ${y})`, role: 'img', 'aria-label': `${label}, ${{ sidecar: 'has a sidecar that is shown here', identity: 'has proved who it is', service: 'a service', unknown: below }[kind]}` },
    svg('title', null, `${label} (${below ?? kind})`),
    svg('rect', { x: -width / 2, y: -height / 2, width, height, rx: kind === 'unknown' ? 25 : 8 }),
    svg('text', { class: 'label', y: -1, 'text-anchor': 'middle' }, cut(label, 19)),
    svg('text', { class: 'below', y: 15, 'text-anchor': 'middle' }, cut(below ?? '', 24)));
}
