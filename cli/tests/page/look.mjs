// Looks at the page as a person does: node look.mjs SCENE URL FACTS. Ends with 1 and what was seen where it is not as it should be.
//
// PLAYWRIGHT_CORE is the module, CHROMIUM the browser, PICTURES the folder for screenshots.

import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';

const { chromium } = await import(process.env.PLAYWRIGHT_CORE);
const [scene, url, factsText] = process.argv.slice(2);
const facts = JSON.parse(factsText);
const pictures = process.env.PICTURES;
mkdirSync(pictures, { recursive: true });

const DESKTOP = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };
/** How long anything may take, in milliseconds. */
const SOON = 15_000;

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
const faults = [];
try {
  await { mesh, one, down }[scene]();
  assert.deepEqual(faults, [], 'what the browser complained of');
  console.log(`${scene}: as it should be`);
} catch (fault) {
  for (const context of browser.contexts()) {
    for (const page of context.pages()) {
      await page.screenshot({ path: `${pictures}/fault.png` }).catch(() => {});
      console.error(await page.locator('body').innerText().catch(() => 'no page'));
    }
  }
  console.error(fault.stack, faults);
  process.exitCode = 1;
} finally {
  await browser.close();
}

async function opened(options = {}) {
  const context = await browser.newContext({ viewport: DESKTOP, colorScheme: 'light', ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(SOON);
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) faults.push(`${message.text()} ${message.location().url}`);
  });
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('request', (request) => {
    if (!request.url().startsWith(url)) faults.push(`asks another server: ${request.url()}`);
  });
  page.on('response', (response) => {
    if (response.status() >= 400) faults.push(`${response.status()} ${response.url()}`);
  });
  return page;
}

async function picture(page, name) {
  await page.screenshot({ path: `${pictures}/${name}.png`, fullPage: true });
}

/** Waits until `check` holds. */
async function until(what, check) {
  const end = Date.now() + SOON;
  for (;;) {
    const seen = await check();
    if (seen) return seen;
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

async function text(page, locator) {
  return (await page.locator(locator).innerText()).replace(/\s+/g, ' ');
}

/** A call in plaintext, which the server's sidecar refuses. */
function plaintext(bytes) {
  const [host, port] = facts.server.split(':');
  return new Promise((done) => {
    const socket = connect(Number(port), host, () => socket.write(bytes));
    socket.on('error', done);
    socket.on('close', done);
  });
}

/** Nothing is wider than the window, but what can be scrolled by itself. */
async function fits(page, what) {
  const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(wider <= 0, `${what} is ${wider} px wider than the window`);
}

/** What a stranger has sent is text, and nothing but text. */
async function harmless(page) {
  assert.equal(await page.locator('main img, main script').count(), 0);
  assert.ok(!(await page.title()).includes('owned'));
}

async function named(page) {
  const nameless = await page.evaluate(() => [...document.querySelectorAll('a, button, select, input, summary, [role=img], [tabindex="0"]')]
    .filter((element) => !(element.getAttribute('aria-label') ?? element.textContent ?? '').trim() && !element.closest('label')?.textContent.trim())
    .map((element) => element.outerHTML));
  assert.deepEqual(nameless, [], 'what can be reached has a name');
}

/** The parts of the page that decide, asked for themselves. */
async function pure(page) {
  const seen = await page.evaluate(async () => {
    const { graph, layers, places, padlock } = await import('/page/graph.js');
    const { hex } = await import('/page/connection.js');
    const { bytes, micros, seconds } = await import('/page/words.js');
    const { visible } = await import('/page/html.js');
    const nodes = ['web', 'cart', 'orders', 'payment', 'mail', 'ledger', 'legacy'].map((label) => ({ key: label, label }));
    const link = (src, dst) => ({ src, dst });
    // A chain with a circle, a shortcut and a loop of its own.
    const links = [link('web', 'cart'), link('cart', 'orders'), link('orders', 'payment'), link('payment', 'cart'), link('web', 'orders'), link('orders', 'mail'), link('mail', 'mail'), link('legacy', 'orders'), link('payment', 'ledger')];
    const at = (upright) => Object.fromEntries(places(nodes, links, upright).at);
    const record = (direction, client, more) => ({ direction, client, originalDestination: '10.0.0.8:80', upstream: '10.0.0.8:80', accepted: '', ...more });
    const edge = (secured, more) => ({ secured, src: 'x', dst: 'y', clientId: null, serverId: null, reason: '', ...more });
    const entry = (proxy, connection, of) => ({ proxy, connection, edge: of, moves: [], began: -Infinity });
    const proxies = [{ number: 0, name: 'web', identity: 'spiffe://td/web' }, { number: 1, name: 'cart', identity: 'spiffe://td/cart' }];
    const drawn = graph(proxies, [
      // One connection in mutual TLS and one in plaintext, each told by both ends; then two of strangers.
      entry(0, record('outbound', '127.0.0.1:1', { dialledFrom: '10.0.0.7:1' }), edge('mutual_tls', { clientId: 'spiffe://td/web', serverId: 'spiffe://td/cart' })),
      entry(1, record('inbound', '10.0.0.7:1'), edge('mutual_tls', { clientId: 'spiffe://td/web', serverId: 'spiffe://td/cart' })),
      entry(0, record('outbound', '127.0.0.1:2', { dialledFrom: '10.0.0.7:2' }), edge('no')),
      entry(1, record('inbound', '10.0.0.7:2'), edge('no')),
      entry(1, record('inbound', '10.0.0.9:1'), edge('no')),
      entry(1, record('inbound', '10.0.0.7:3'), edge('refused')),
    ]);
    return {
      layers: layers(nodes, links).map((row) => row.map(({ key }) => key)), same: [at(false), at(false)], upright: at(true),
      links: drawn.links.map(({ key, all, padlock: kind, counts, share }) => [key, all, kind, counts.refused, share]),
      padlocks: [[1, 0, 0, 0, 5], [0, 1, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [1, 0, 1, 0, 0]]
        .map(([mutual, tls, app, no, refused]) => padlock({ mutual, tls, app, no, refused })),
      hex: hex('170303001a' + '41'.repeat(12) + 'ff'), words: [bytes(999), bytes(1234), micros(420), micros(2_500_000), seconds(90_000), seconds(1_000_000)],
      visible: visible('a\u202eb\u0000\n'),
    };
  });
  assert.deepEqual(seen.layers, [['legacy', 'web'], ['cart'], ['orders'], ['mail', 'payment'], ['ledger']]);
  assert.deepEqual(seen.same[0], seen.same[1]);
  for (const all of [seen.same[0], seen.upright]) {
    const places = Object.values(all);
    assert.equal(new Set(places.map(({ x, y }) => `${x}/${y}`)).size, places.length, 'no two nodes stand in one place');
  }
  assert.deepEqual(seen.links, [['p0→p1', 2, 'mixed', 0, 0.5], ['unknown→p1', 1, 'open', 1, 0]]);
  assert.deepEqual(seen.padlocks, ['closed', 'closed', 'mixed', 'open', 'app', 'refused', 'closed']);
  assert.equal(seen.hex, '0000  17 03 03 00 1a 41 41 41 41 41 41 41 41 41 41 41  .....AAAAAAAAAAA\n0010  41 ff                                            A.');
  assert.deepEqual(seen.words, ['999 B', '1.2 kB', '0.42 ms', '2.5 s', '25 h 0 min', '11 d 13 h']);
  assert.equal(seen.visible, 'a\\u{202e}b\\u{0}\n');
}

async function mesh() {
  const page = await opened();
  const answer = await page.goto(url);
  assert.match(answer.headers()['content-security-policy'], /default-src 'none'; script-src 'self'/);
  await page.getByText('● live').waitFor();
  await pure(page);

  // The graph: mutual TLS between the two, and plaintext, taken or refused, from somebody who has proved nothing.
  const secured = page.getByRole('link', { name: /^client to server: secured, .* connection/ });
  const stranger = page.getByRole('link', { name: /^unknown to server: in plaintext, 1 connection, 0 open, 1 refusal/ });
  await secured.waitFor();
  await stranger.waitFor();
  assert.equal(await page.locator('.link .lock').count(), 2);
  await page.getByRole('heading', { name: 'Who talks to whom' }).waitFor();
  await fits(page, 'the mesh');
  await named(page);
  await picture(page, 'mesh-light');

  // An edge, by the keyboard alone.
  await secured.focus();
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'client to server', level: 1 }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.tagName), 'H1');
  const told = await text(page, 'main');
  for (const part of ['spiffe://cluster.local/ns/default/sa/client', 'spiffe://cluster.local/ns/default/sa/server', 'the client’s sidecar', 'DELETE', facts.hostilePath, 'authorization_denied']) assert.ok(told.includes(part), `${part} in: ${told}`);
  await harmless(page);
  await picture(page, 'edge-light');

  // A connection under the microscope, both legs.
  await page.goto(`${url}#/connection/0/${facts.mutual}`);
  await page.locator('.leg').nth(1).waitFor();
  await until('both legs', async () => (await page.locator('.leg').count()) === 2);
  const legs = await page.locator('.leg').allInnerTexts();
  assert.match(legs[0], /^client: outbound/);
  assert.match(legs[1], /^server: inbound/);
  for (const part of ['ClientHello', 'server name (SNI)', 'outbound_.8080_._.server', 'istio', 'yes: a sidecar speaks', 'key shares', 'signature algorithms', 'TLS_AES_256_GCM_SHA384', 'STRICT by', 'TLSv1.3', 'X25519MLKEM768', 'spiffe://cluster.local/ns/default/sa/client', 'valid until']) {
    assert.ok(legs[1].includes(part), `${part} in: ${legs[1]}`);
  }
  assert.ok((await page.locator('.axis .mark').count()) >= 8, 'steps on the axis');
  await fits(page, 'a connection');
  await named(page);
  await picture(page, 'connection-light');

  // The bytes: ciphertext between the sidecars, and plaintext beside the app since somebody asked for it.
  await page.goto(`${url}#/connection/1/${facts.captured}`);
  await until('both legs', async () => (await page.locator('.leg').count()) === 2);
  const bytes = await page.getByRole('region', { name: 'server, inbound' }).locator('.hex').allInnerTexts();
  assert.ok(bytes.length >= 4, `four dumps in ${bytes}`);
  assert.match(bytes[0], /^0000  17 03 03 /, 'a record of TLS');
  assert.ok(!bytes.slice(0, 2).some((dump) => dump.includes('GET')), 'nothing to be read in it');
  assert.match(bytes[2], /^0000  47 45 54 20 2f .* GET \/captured/);
  assert.match(bytes[3], /HTTP\/1\.1 200/);
  await picture(page, 'captured-light');

  // The one that was refused: why, and what helps; what it sent is text.
  await page.goto(`${url}#/connection/1/${facts.refused}`);
  await page.getByText('What helps:').waitFor();
  const story = await text(page, 'main');
  for (const part of ['refused: strict_plaintext', 'port 8080 is STRICT by PeerAuthentication default/server', `plaintext: GET ${facts.hostile}`.slice(0, 30), 'Give the client a sidecar']) assert.ok(story.includes(part), `${part} in: ${story}`);
  await harmless(page);
  await picture(page, 'refused-light');

  // What happens now is seen and read out without anything being pressed; and no text of a stranger becomes markup.
  await page.goto(`${url}#/connections`);
  await page.getByRole('heading', { name: 'Connections', level: 1 }).waitFor();
  const rows = page.locator('tr.refused');
  const before = await rows.count();
  await plaintext(`GET ${facts.hostile}\u202e HTTP/1.1\r\nHost: server\r\n\r\n`);
  await until('the new refusal', async () => (await rows.count()) > before);
  await until('that it is read out', async () => /server refused a connection from .*: strict_plaintext/.test(await page.locator('#announcer').textContent()));
  await harmless(page);
  await page.getByRole('searchbox').fill(`${facts.stranger}:`);
  await until('the filter', async () => /^[0-9]+ of [0-9]+ that are known$/m.test(await page.locator('.bar .summary').innerText()) && !(await text(page, 'table >> nth=0')).includes('mutual TLS'));
  await named(page);
  await picture(page, 'connections-light');

  // What moves now stands on its edge.
  const [host, port] = facts.old.split(':');
  const socket = connect(Number(port), host);
  socket.on('error', () => {});
  const talking = setInterval(() => socket.write('x'.repeat(1000)), 50);
  await page.goto(`${url}#/mesh`);
  await until('bytes on the edge', async () => /[1-9][0-9.]* kB\/s/.test(await page.locator('.link.open .figures').textContent()));
  await page.getByRole('row', { name: /^unknown server × in plaintext .* kB\/s .* kB\/s 1 / }).waitFor();
  clearInterval(talking);
  socket.destroy();

  // Policies: who won and where it stands; a changed file is noticed.
  await page.getByRole('navigation').getByRole('link', { name: 'Policies' }).click();
  const policies = page.getByRole('region', { name: 'Policies of server' });
  await policies.getByText('PeerAuthentication: who won').waitFor();
  await policies.getByRole('row', { name: /^8080 server:8080 HTTP STRICT PeerAuthentication default\/server/ }).waitFor();
  await policies.getByRole('row', { name: /^8081 .*PERMISSIVE/ }).waitFor();
  await policies.getByText('policy.yaml:2').waitFor();
  await picture(page, 'policies-light');
  const written = readFileSync(facts.policies, 'utf8');
  writeFileSync(facts.policies, written.replace('portLevelMtls: {8081: {mode: PERMISSIVE}}', 'portLevelMtls: {8081: {mode: DISABLE}}'));
  await policies.getByText('changed just now').waitFor();
  await policies.getByRole('row', { name: /^8081 .*DISABLE/ }).waitFor();
  appendFileSync(facts.policies, '---\nkind: Nonsense\n');
  await policies.getByText('New resources were not taken').waitFor();
  await page.locator('.notice').first().waitFor();
  await picture(page, 'policies-broken-light');
  writeFileSync(facts.policies, written);
  await policies.getByRole('row', { name: /^8081 .*PERMISSIVE/ }).waitFor();

  // Certificates with their ages.
  await page.getByRole('navigation').getByRole('link', { name: 'Certificates' }).click();
  const certificates = page.getByRole('region', { name: 'Certificates of server' });
  await certificates.getByText(/ left of /).first().waitFor();
  await certificates.getByText('trust domain cluster.local').waitFor();
  assert.equal(await page.locator('nav [aria-current=page]').innerText(), 'Certificates');
  await named(page);
  await picture(page, 'certificates-light');

  // Dark, and as wide as a phone.
  for (const [name, options] of [['dark', { colorScheme: 'dark' }], ['phone-light', { viewport: PHONE, isMobile: true, hasTouch: true }], ['phone-dark', { viewport: PHONE, colorScheme: 'dark', isMobile: true, hasTouch: true }]]) {
    const other = await opened(options);
    for (const [view, ready] of [['mesh', '.link'], [`connection/0/${facts.mutual}`, '.leg'], ['policies', '.mode'], ['certificates', '.age']]) {
      await other.goto(`${url}#/${view}`);
      await other.locator(ready).first().waitFor({ state: 'attached' });
      await fits(other, `${view} (${name})`);
      await picture(other, `${view.split('/')[0]}-${name}`);
    }
    await other.context().close();
  }
}

async function one() {
  const page = await opened();
  await page.goto(url);
  await page.getByText('● live').waitFor();
  await page.getByRole('link', { name: /^unknown to server: .*refusals/ }).waitFor();
  await page.goto(`${url}#/connection/0/${facts.refused}`);
  await page.getByText('What helps:').waitFor();
  assert.equal(await page.locator('.leg').count(), 1);
  await harmless(page);
  await picture(page, 'one-light');

  // Programs still get their index at the same place.
  const index = await page.evaluate(async () => (await fetch('/', { headers: { accept: 'application/json' } })).json());
  assert.ok(index.pages.some(({ path }) => path === '/events'));
}

async function down() {
  const page = await opened();
  await page.goto(url);
  await page.locator('.notice').getByText(/does not answer: /).waitFor();
  await page.getByRole('link', { name: 'client', exact: false }).first().waitFor();
  await picture(page, 'down-light');
}
