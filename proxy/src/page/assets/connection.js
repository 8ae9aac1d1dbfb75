// One connection under the microscope: what its sidecar tells of it, and beside it what the sidecar of the other side tells of
// the same one. The words are those of `pillion explain`.

import { facts, h, svg } from './html.js';
import { bytes, micros } from './words.js';

/** What was fetched of the connection that is looked at. */
let looked = { key: null };

/** The view of the connection `id` of the sidecar `proxy`. */
export function connection(state, { parts: [proxyText, idText], again }) {
  const [proxy, id] = [Number(proxyText), Number(idText)];
  const key = `${proxy}/${id}`;
  const heard = state.proxies[proxy]?.connections.get(id)?.connection;
  if (looked.key !== key) {
    looked = { key };
  }
  // Asked again when it has gone on: it was admitted, or is over.
  const stage = `${heard?.accepted} ${heard?.reason} ${heard?.times?.opened} ${state.proxies.length}`;
  if (looked.stage !== stage && state.proxies.length > 0) {
    looked.stage = stage;
    look(state, proxy, id, looked, again);
  }
  const back = h('p', { class: 'back' }, h('a', { href: '#/connections' }, 'All connections'));
  if (looked.fault) return [h('h1', { tabindex: '-1' }, `Connection ${id}`), back, h('p', { class: 'wrong' }, `× ${looked.fault}`)];
  if (!looked.story) return [h('h1', { tabindex: '-1' }, `Connection ${id}`), back, h('p', { class: 'empty' }, 'asking …')];
  const legs = [{ proxy, story: fresh(looked.story, heard), name: state.proxies[proxy]?.name ?? '' }];
  if (looked.other) {
    const { proxy: of, story } = looked.other;
    const news = state.proxies[of]?.connections.get(story.connection.id)?.connection;
    legs.push({ proxy: of, story: fresh(story, news), name: state.proxies[of]?.name ?? '' });
  }
  // The client's sidecar first.
  legs.sort((one, other) => (one.story.connection.direction === 'outbound' ? 0 : 1) - (other.story.connection.direction === 'outbound' ? 0 : 1));
  return [
    h('h1', { tabindex: '-1' }, looked.story.title),
    back,
    looked.story.cure ? h('p', { class: 'cure' }, h('strong', null, 'What helps: '), looked.story.cure) : null,
    way(legs),
    axis(legs),
    looked.alone && state.proxies.length > 1 ? h('p', { class: 'empty' }, `One side: ${looked.alone}.`) : null,
    h('div', { class: 'legs' }, legs.map(leg)),
  ];
}

/** Bytes go on while the story stands. */
function fresh(story, news) {
  return news && !story.connection.reason ? { ...story, connection: { ...story.connection, bytesToServer: news.bytesToServer, bytesToClient: news.bytesToClient } } : story;
}

async function look(state, proxy, id, into, again) {
  try {
    into.story = await state.page(proxy, `explain?id=${id}`);
    into.fault = null;
  } catch (fault) {
    into.fault = fault.message;
  }
  again();
  if (into.fault || state.proxies.length < 2) return;
  try {
    const answer = await fetch(`leg?proxy=${proxy}&id=${id}`, { headers: { accept: 'application/json' } });
    const { other, because } = await answer.json();
    into.other = other && { proxy: other.proxy, story: await state.page(other.proxy, `explain?id=${other.id}`) };
    into.alone = because;
  } catch (fault) {
    into.alone = fault.message;
  }
  again();
}

/** The way of the bytes, from the client's app to the server's. */
function way(legs) {
  const [first, last] = [legs[0].story.connection, legs[legs.length - 1].story.connection];
  const stops = [];
  const stop = (name, below) => stops.push(h('li', { class: 'stop' }, h('strong', null, name), h('span', { class: 'below' }, below)));
  const stretch = (secured, words) => stops.push(h('li', { class: `stretch ${secured}` }, h('span', { class: `badge ${secured}` }, { closed: '√', open: '×', app: '~', refused: '⊘', plain: '–' }[secured]), ` ${words}`));
  const first_plain = first.firstBytes?.class === 'tls' && !first.tls ? ['app', 'the app’s own TLS'] : ['open', 'plaintext'];
  const mesh = (record) => record.tls ? ['closed', `${record.tls.version}, ${record.tls.group}`]
    : record.reason && !record.times.opened ? ['refused', 'nothing passed'] : first_plain;
  if (first.direction === 'outbound') {
    stop('app', first.client);
    stretch('plain', 'plaintext, inside its own host');
    stop(`sidecar of ${legs[0].name}`, first.tls?.local ?? '');
    stretch(...mesh(first));
  } else {
    stop(first.tls ? 'peer' : 'unknown', first.tls?.peer ?? `${first.client}, no identity is proved`);
    stretch(...mesh(first));
  }
  if (last.direction === 'inbound') {
    stop(`sidecar of ${legs[legs.length - 1].name}`, last.tls?.local ?? '');
    stretch(...(last.times.opened ? ['plain', 'plaintext, inside its own host'] : ['refused', 'the app was not reached']));
    stop('app', last.originalDestination ?? last.upstream ?? '');
  } else {
    stop(last.tls ? 'peer' : last.service ?? 'server', last.tls?.peer || last.upstream || last.originalDestination || '');
  }
  return h('ol', { class: 'way', 'aria-label': 'The way of the bytes' }, stops);
}

/** The height of a lane on the axis: its name, its line and four rows of words. */
const LANE = 112;

const MARKS = [
  ['firstBytes', 'first bytes'], ['authorized', 'policies'], ['dialled', 'dial'], ['connected', 'connected'], ['handshake', 'handshake'],
  ['opened', 'open'], ['asked', 'asked'], ['answered', 'answered'],
];

/** The steps of both legs on one axis of time. */
function axis(legs) {
  const client = legs[0].story.connection;
  const server = legs[1]?.story.connection;
  // Clocks of two hosts differ, and times are told by the millisecond: the server's begins while the client's dials.
  const dialled = client.times.dialled ?? 0;
  const measured = server ? (Date.parse(server.accepted) - Date.parse(client.accepted)) * 1000 : 0;
  const ended = client.times.handshake ?? client.times.opened ?? client.durationMicros;
  const room = Math.max(dialled, ended - (server?.times.handshake ?? 0));
  const offsets = [0, Math.min(Math.max(measured, dialled), room)];
  const lanes = legs.map(({ story, name }, lane) => {
    const { times, durationMicros, direction, reason } = story.connection;
    const marks = [['accepted', 0], ...MARKS.map(([field, words]) => [words, times[field]]), [reason ? 'end' : 'now', durationMicros]];
    return { name: `${name}, ${direction}`, marks: marks.filter(([, at]) => at !== null && at !== undefined).sort((one, other) => one[1] - other[1]).map(([words, at]) => [words, at + offsets[lane], at]) };
  });
  const set = lanes.flatMap(({ marks }) => marks.filter(([words]) => words !== 'end' && words !== 'now').map(([, at]) => at));
  const until = Math.max(...set, 1);
  const last = Math.max(...lanes.flatMap(({ marks }) => marks.map(([, at]) => at)));
  const broken = last > until * 1.6;
  const whole = Math.max(last, 1);
  const scale = (at) => {
    if (!broken) return 20 + (at / whole) * 780;
    return at <= until * 1.1 ? 20 + (at / until) * 660 : 800;
  };
  const height = 34 + lanes.length * LANE;
  return h('figure', { class: 'axis' },
    h('figcaption', null, 'Steps on one axis of time, from the moment at which the first sidecar took the connection', lanes.length > 1 ? '; the second begins where the clocks of both put it, between dial and handshake' : ''),
    h('div', { class: 'drawing', tabindex: '0', role: 'region', 'aria-label': 'Axis of time; the same figures stand beside the steps below' },
      svg('svg', { viewBox: `0 0 860 ${height}`, width: 860, height, 'aria-hidden': 'true' },
        [0, 0.25, 0.5, 0.75, 1].map((part) => {
          const at = (broken ? until : whole) * part;
          const x = scale(at);
          return [svg('line', { class: 'grid', x1: x, x2: x, y1: 18, y2: height }), svg('text', { class: 'tick', x, y: 12, 'text-anchor': part === 0 ? 'start' : 'middle' }, micros(at))];
        }),
        lanes.map(({ name, marks }, lane) => {
          const y = 62 + lane * LANE;
          const ends = marks.map(([, at]) => scale(at));
          const rows = [];
          return svg('g', { class: `lane lane${lane}` },
            svg('text', { class: 'lane-name', x: 4, y: y - 28 }, name),
            svg('line', { class: 'span', x1: Math.min(...ends), x2: Math.max(...ends), y1: y, y2: y }),
            broken ? svg('path', { class: 'gap', d: `M735 ${y - 7}l-6 14M745 ${y - 7}l-6 14` }) : null,
            marks.map(([words, at, own]) => {
              const x = scale(at);
              // Words that would run into each other go to the next row.
              const wide = words.length * 6.6 + 14;
              const left = Math.min(x - 4, 856 - wide);
              let row = rows.findIndex((end) => end < left);
              if (row < 0) row = rows.push(0) - 1;
              rows[row] = left + wide;
              return [svg('circle', { class: 'mark', cx: x, cy: y, r: 4.5 }, svg('title', null, `${words}: ${micros(own)}`)),
                svg('text', { class: 'mark-name', x: left, y: y + 19 + row * 13 }, words)];
            }));
        }))));
}

function leg({ proxy, story, name }) {
  const record = story.connection;
  return h('section', { class: 'leg', 'data-key': `leg${proxy}/${record.id}`, 'aria-label': `${name}, ${record.direction}` },
    h('h2', null, `${name}: ${record.direction} ${record.id}`),
    h('ol', { class: 'steps' }, story.steps.map(({ about, passed, atMicros, told }) => h('li', { class: passed ? 'right' : 'wrong' },
      h('span', { class: 'sign', role: 'img', 'aria-label': passed ? 'went on' : 'did not go on' }, passed ? '√' : '×'),
      h('span', { class: 'about' }, ABOUT[about] ?? about),
      h('span', { class: 'at' }, atMicros === null ? '' : `+${micros(atMicros)}`),
      h('span', { class: 'told' }, told)))),
    hello(record),
    handshake(record),
    policy(record),
    wire(record),
    h('details', null, h('summary', null, 'The record as JSON'), h('pre', { tabindex: '0' }, JSON.stringify(record, null, 2))));
}

const ABOUT = { firstBytes: 'first bytes' };

/** What the client said first. */
function hello({ firstBytes, looksLike, direction }) {
  if (!firstBytes) return direction === 'outbound' ? null : part('First bytes', h('p', { class: 'empty' }, 'not known'));
  if (firstBytes.class !== 'tls') {
    const words = { unseen: 'not looked at: the port is DISABLE', silent: 'none before the detection timeout', plaintext: 'bytes that cannot begin TLS' };
    return part('First bytes', facts([['class', words[firstBytes.class] ?? firstBytes.class], ['looks like', looksLike]]));
  }
  const list = (values) => values?.map((value) => h('span', { class: 'item' }, value));
  const { sni, alpn, mesh, length, versions, groups, keyShares, cipherSuites, signatureAlgorithms } = firstBytes;
  return part('ClientHello', facts([
    ['length', length ? `${length} bytes` : null],
    ['server name (SNI)', sni ?? 'none'],
    ['protocols (ALPN)', alpn.length > 0 ? list(alpn) : 'none'],
    ['mark of the mesh', mesh ? 'yes: a sidecar speaks' : 'no: the app’s own TLS'],
    ['versions', list(versions)],
    ['groups', list(groups)],
    ['key shares', list(keyShares)],
    ['cipher suites', list(cipherSuites)],
    ['signature algorithms', list(signatureAlgorithms)],
  ]));
}

function handshake({ tls, direction }) {
  if (!tls) return null;
  const peer = direction === 'inbound' ? 'client' : 'server';
  const certificate = (whose, identity, serial, notAfter) => h('div', { class: 'certificate' },
    h('h4', null, whose), facts([['proves', identity || 'nothing'], ['serial', serial], ['valid until', notAfter]]));
  return part('Handshake and certificates',
    facts([
      ['version', tls.version], ['cipher suite', tls.cipherSuite], ['group', tls.group],
      ['session', tls.resumed ? 'resumed: what was proved before still holds' : 'full handshake'], ['took', micros(tls.handshakeMicros)],
    ]),
    h('div', { class: 'pair' },
      certificate(`peer (${peer})`, tls.peer, tls.peerSerial, tls.peerNotAfter),
      certificate('own', tls.local, tls.localSerial, tls.localNotAfter)));
}

function policy({ mode, plan, authorization }) {
  const { allowed, because, audited, shadow: dryRun } = authorization ?? {};
  const known = [
    ['mode', mode ? `${mode.mode} by ${mode.because}` : null],
    ['plan', plan],
    ['authorization', authorization ? `${allowed ? 'allowed' : 'denied'}: ${because}` : null],
    ['marked by', audited],
    ['in dry run', dryRun ? `${dryRun.allowed ? 'allowed' : 'denied'}${dryRun.rule ? ` by ${dryRun.rule}` : ': no ALLOW rule matches'}` : null],
    ['mode in dry run', mode?.shadow ? [mode.shadow.mode, mode.shadow.because && `by ${mode.shadow.because}`, mode.shadow.refused ? `would refuse it: ${mode.shadow.refused}` : 'would let it in'].filter(Boolean).join(' ') : null],
  ];
  if (known.every(([, value]) => !value)) return null;
  return part('What decided', facts(known), h('p', { class: 'back' }, h('a', { href: '#/policies' }, 'All policies')));
}

/** What was on the wire, as far as it is kept. */
function wire({ wire: kept, tls, bytesToServer, bytesToClient }) {
  const passed = `${bytes(bytesToServer)} to the server, ${bytes(bytesToClient)} to the client`;
  const dumps = (leg, words) => leg ? [
    h('h4', null, words),
    ['toServer', 'toClient'].map((way) => leg[way] ? h('div', null, h('p', { class: 'below' }, way === 'toServer' ? 'to the server' : 'to the client'),
      h('pre', { class: 'hex', tabindex: '0' }, hex(leg[way]))) : null),
  ] : null;
  const mesh = dumps(kept?.mesh, tls ? 'between the sidecars: ciphertext' : 'between the sidecars');
  const app = dumps(kept?.app, 'between app and sidecar: plaintext, since capture is switched on');
  return part('On the wire', h('p', { class: 'below' }, passed), mesh, app,
    mesh || app ? null : h('p', { class: 'empty' }, 'No bytes of it were kept.'),
    app ? null : h('p', { class: 'below' }, 'Plaintext between app and sidecar is kept only where admin.capture allows it, and while somebody asks for it: POST /capture?for=60s.'));
}

/** Lines of 16 bytes, with what can be read of them. */
export function hex(digits) {
  const octets = digits.match(/../g)?.map((two) => Number.parseInt(two, 16)) ?? [];
  const lines = [];
  for (let at = 0; at < octets.length; at += 16) {
    const line = octets.slice(at, at + 16);
    const left = line.map((octet) => octet.toString(16).padStart(2, '0')).join(' ').padEnd(47);
    const right = line.map((octet) => (octet >= 0x20 && octet < 0x7f ? String.fromCharCode(octet) : '.')).join('');
    lines.push(`${at.toString(16).padStart(4, '0')}  ${left}  ${right}`);
  }
  return lines.join('\n');
}

function part(title, ...children) {
  return h('section', { class: 'part' }, h('h3', null, title), children);
}
