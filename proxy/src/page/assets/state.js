// What is known of the sidecars: asked once, then kept by what they tell (server-sent events).

/** Connections that are kept of each sidecar. */
const KEPT = 3000;
/** Refused requests that are kept of each. */
const REQUESTS = 1000;
/** For how long what moves counts as now, in milliseconds. */
const NOW = 5000;

/** Tells `change` (something is new, with what) and `event` (one thing happened). */
export class State extends EventTarget {
  constructor() {
    super();
    /** By number. */
    this.proxies = [];
    /** Whether events come, and why not. */
    this.live = { up: false, why: 'connecting …' };
    /** Certificates that came since the page was opened, the newest first. */
    this.rotations = [];
  }

  /** Begins, and goes on for ever. */
  start() {
    const events = new EventSource('events');
    const on = (name, act) => events.addEventListener(name, (event) => act(JSON.parse(event.data)));
    events.addEventListener('error', () => {
      this.#set({ up: false, why: 'not live: the connection to the server is gone; trying again' });
    });
    on('hello', ({ proxy }) => {
      if (proxy === null || this.proxies.length === 0) this.#ask();
      else this.#askOne(proxy);
      this.#set({ up: true, why: '' });
    });
    on('lost', ({ proxy }) => (proxy === null ? this.#ask() : this.#askOne(proxy)));
    on('down', ({ proxy, why }) => this.#of(proxy, (known) => {
      known.down = why;
    }));
    on('connection', ({ proxy, connection, edge }) => this.#of(proxy, (known) => {
      put(known, { connection, edge }, true);
      return { kind: 'connection', proxy, connection, edge };
    }));
    on('request', ({ proxy, request }) => this.#of(proxy, (known) => {
      known.requests = [...known.requests, request].slice(-REQUESTS);
      return { kind: 'request', proxy, request };
    }));
    on('moved', ({ proxy, moved }) => this.#of(proxy, (known) => {
      for (const [id, toServer, toClient] of moved) {
        const entry = known.connections.get(id);
        if (!entry || entry.connection.reason) continue;
        const duration = entry.connection.durationMicros + (performance.now() - entry.arrived) * 1000;
        put(known, { edge: entry.edge, connection: { ...entry.connection, bytesToServer: toServer, bytesToClient: toClient, durationMicros: Math.round(duration) } }, true);
      }
    }));
    on('policy', ({ proxy, policy }) => this.#of(proxy, (known) => {
      known.policy = policy;
      known.policyChanged = Date.now();
      return { kind: 'policy', proxy, policy };
    }));
    on('certificate', ({ proxy, identity, notAfter }) => this.#of(proxy, (known) => {
      known.certificate = notAfter;
      known.identity = identity;
      this.rotations = [{ proxy, identity, notAfter, at: new Date().toISOString() }, ...this.rotations].slice(0, 50);
      return { kind: 'certificate', proxy, identity, notAfter };
    }));
  }

  /** The JSON of a page of the sidecar `number`. */
  async page(number, path) {
    const known = this.proxies[number];
    if (!known) throw new Error('no such sidecar');
    return fetched(`${known.at}${path}`);
  }

  /** All connections, `{proxy, connection, edge, arrived, moves}`. */
  *entries() {
    for (const known of this.proxies) yield* known.connections.values();
  }

  async #ask() {
    try {
      const { proxies } = await fetched('proxies');
      const old = this.proxies;
      this.proxies = proxies.map(({ proxy, url, at, down }) => ({
        number: proxy, url, at, down,
        name: old[proxy]?.name ?? url?.replace('http://', '') ?? 'this sidecar',
        namespace: null, identity: null, ready: null, policy: null, certificate: null, policyChanged: 0, skew: 0,
        requests: [], connections: old[proxy]?.connections ?? new Map(),
      }));
      this.#tell();
      await Promise.all(this.proxies.filter(({ down }) => !down).map(({ number }) => this.#askOne(number)));
    } catch (fault) {
      this.#set({ up: false, why: `not live: ${fault.message}` });
    }
  }

  async #askOne(number) {
    const known = this.proxies[number];
    if (!known) return;
    try {
      const state = await this.page(number, 'page/state');
      Object.assign(known, {
        name: state.workload.name, namespace: state.workload.namespace, identity: state.workload.identity,
        ready: state.ready, policy: state.policy, certificate: state.certificate, requests: state.requests, down: null,
        skew: Date.parse(state.now) - Date.now(),
      });
      const listed = new Set(state.connections.map(({ connection }) => connection.id));
      const oldest = Math.min(...listed);
      // What it does not tell of any more has been forgotten, or it has begun anew.
      for (const [id, { arrived }] of known.connections) {
        if (!listed.has(id) && (id < oldest || performance.now() - arrived > NOW)) known.connections.delete(id);
      }
      for (const one of state.connections) put(known, one, false);
    } catch (fault) {
      known.down = fault.message;
    }
    this.#tell();
  }

  #of(number, act) {
    const known = this.proxies[number];
    if (!known) return;
    const event = act(known);
    this.#tell();
    if (event) this.dispatchEvent(new CustomEvent('event', { detail: event }));
  }

  #set(live) {
    this.live = live;
    this.#tell();
  }

  #tell() {
    this.dispatchEvent(new Event('change'));
  }
}

async function fetched(path) {
  const answer = await fetch(path, { headers: { accept: 'application/json' } });
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(body?.detail ?? `answered ${answer.status}`);
  if (body === null) throw new Error('its answer is no JSON');
  return body;
}

/** Takes in what is told of a connection, unless more is known of it. */
function put(known, { connection, edge }, isNews) {
  const old = known.connections.get(connection.id);
  const anew = old && old.connection.accepted !== connection.accepted;
  if (old && !anew && (old.connection.reason || old.connection.durationMicros > connection.durationMicros) && !connection.reason) return;
  const now = performance.now();
  const before = old && !anew ? old.connection : { bytesToServer: 0, bytesToClient: 0 };
  const moves = (old?.moves ?? []).filter(([at]) => at > now - NOW);
  const delta = [connection.bytesToServer - before.bytesToServer, connection.bytesToClient - before.bytesToClient];
  if (isNews && (delta[0] > 0 || delta[1] > 0)) moves.push([now, ...delta]);
  const began = old && !anew ? old.began : isNews ? now : -Infinity;
  known.connections.set(connection.id, { proxy: known.number, connection, edge, arrived: now, began, moves });
  if (known.connections.size > KEPT) {
    for (const [id, { connection: { reason } }] of known.connections) {
      if (known.connections.size <= KEPT) break;
      if (reason) known.connections.delete(id);
    }
  }
}

/** Connections begun by the second, and bytes each way, of `entries` as they are now. */
export function rates(entries) {
  const since = performance.now() - NOW;
  let [begun, up, down] = [0, 0, 0];
  for (const { began, moves } of entries) {
    if (began > since) begun += 1;
    for (const [at, toServer, toClient] of moves) if (at > since) [up, down] = [up + toServer, down + toClient];
  }
  const by = NOW / 1000;
  return { begun: begun / by, up: up / by, down: down / by };
}

/** Milliseconds since the connection was last something, by its sidecar's clock; 0 while it is open. */
export function age(state, { proxy, connection }) {
  if (!connection.reason) return 0;
  const ended = Date.parse(connection.accepted) + connection.durationMicros / 1000;
  return Math.max(0, Date.now() + (state.proxies[proxy]?.skew ?? 0) - ended);
}
