// What the mesh resources mean for each sidecar, and what they cause. Files are edited by the person; the page notices.

import { facts, h, table } from './html.js';
import { plural, time } from './words.js';

/** By sidecar: what it was told, at which version. */
const known = new Map();

/** The view of the policies. */
export function policies(state, { again }) {
  return [
    h('h1', { tabindex: '-1' }, 'Policies'),
    h('p', { class: 'summary' }, 'What holds now. To change it edit the files of the mesh folder: each sidecar reads them again, and it shows here at once.'),
    truths(),
    state.proxies.map((proxy) => sidecar(state, proxy, again)),
  ];
}

/** What becomes of what comes, by mode: the same for every port. */
function truths() {
  return h('details', { class: 'truths' }, h('summary', null, 'What a mode does with what comes'),
    table('Modes', ['Mode', 'mutual TLS of a sidecar', 'plaintext', 'the app’s own TLS'], [
      ['STRICT', ['STRICT', 'terminated: who it is is known', 'refused by a reset', 'refused by a reset'], null],
      ['PERMISSIVE', ['PERMISSIVE', 'terminated: who it is is known', 'passed on; nobody knows who it is', 'passed on; the app’s own matter'], null],
      ['DISABLE', ['DISABLE', 'passed on unseen', 'passed on unseen', 'passed on unseen'], null],
    ], ''));
}

function sidecar(state, proxy, again) {
  const told = known.get(proxy.number);
  const { version, lastError } = proxy.policy ?? {};
  const stage = `${version} ${lastError} ${proxy.down}`;
  if (!proxy.down && told?.stage !== stage) {
    known.set(proxy.number, { ...told, stage });
    state.page(proxy.number, 'describe').then((described) => {
      known.set(proxy.number, { stage, described });
      again();
    }, (fault) => {
      known.set(proxy.number, { ...told, stage, fault: fault.message });
      again();
    });
  }
  const { described, fault } = known.get(proxy.number) ?? {};
  const changed = proxy.policyChanged > 0 && Date.now() - proxy.policyChanged < 60_000;
  return h('section', { class: 'sidecar', 'data-key': `policies${proxy.number}`, 'aria-label': `Policies of ${proxy.name}` },
    h('h2', null, proxy.name, h('span', { class: 'below' }, proxy.namespace ?? '')),
    proxy.down ? h('p', { class: 'wrong' }, `× does not answer: ${proxy.down}`) : null,
    fault ? h('p', { class: 'wrong' }, `× ${fault}`) : null,
    proxy.policy ? h('p', { class: 'summary' }, `version ${version}, read at ${time(proxy.policy.loaded)}`,
      changed ? h('strong', { class: 'changed' }, ' changed just now') : null) : null,
    lastError ? h('p', { class: 'wrong' }, `× New resources were not taken, and those before them stay in force: ${lastError}`) : null,
    described ? tables(state, proxy, described) : null);
}

function tables(state, proxy, described) {
  const inbound = [...proxy.connections.values()].filter(({ connection }) => connection.direction === 'inbound');
  const mode = ({ mode: word }) => h('span', { class: `mode ${word.toLowerCase()}` }, word);
  const came = (fits) => {
    const these = inbound.filter(({ connection }) => fits(Number(/:(\d+)$/.exec(connection.originalDestination ?? '')?.[1])));
    const count = (secured) => these.filter(({ edge }) => edge?.secured === secured).length;
    return [count('mutual_tls'), count('no'), count('by_the_app'), count('refused')];
  };
  const own = new Set(described.ports.map(({ port }) => port));
  const rows = described.ports.map((port) => [String(port.port), [
    port.port, port.service ?? '', port.protocol, mode(port), port.because, ...came((at) => at === port.port)], null]);
  rows.push(['other', ['every other', '', '', mode(described.otherPorts), described.otherPorts.because, ...came((at) => !own.has(at))], null]);
  return [
    h('h3', null, 'Ports, and what came'),
    table(`Ports of ${proxy.name}`, ['Port', 'Service', 'Protocol', 'Mode', 'By', 'mutual TLS', 'plaintext', 'own TLS', 'refused'], rows, ''),
    h('h3', null, 'PeerAuthentication: who won, and over whom'),
    table(`PeerAuthentications of ${proxy.name}`, ['Policy', 'File', 'Reaches', 'Says', 'Outcome', 'Because'],
      described.peerAuthentications.map(({ name, place, scope, mode: says, ports, outcome, because, reason }) => [name, [
        name, place, scope,
        [says ?? 'UNSET', Object.entries(ports ?? {}).map(([port, word]) => `, ${port} ${typeof word === 'string' ? word : word?.mode ?? 'UNSET'}`)],
        outcome, [because, reason ? h('span', { class: 'below' }, `reason: ${reason}`) : null],
      ], outcome]), 'None applies: every port is PERMISSIVE.'),
    h('h3', null, 'AuthorizationPolicy: who may'),
    table(`AuthorizationPolicies of ${proxy.name}`, ['Action', 'Policy', 'File', 'Reaches', 'Rules'],
      described.authorizationPolicies.map(({ name, place, scope, action, dryRun, rules }) => [name, [
        `${action}${dryRun ? ' (dry run)' : ''}`, name, place, scope,
        rules.length === 0 ? 'none: it matches nothing' : h('ol', { start: '0', class: 'rules' }, rules.map((rule) => h('li', null, ruleWords(rule)))),
      ], null]), 'None applies: whoever the mode lets in may.'),
    h('p', { class: 'summary' }, `Everybody else is ${described.othersAllowed ? 'allowed' : 'denied'}.`),
    h('h3', null, 'Where it may go, and how'),
    table(`Destinations of ${proxy.name}`, ['Service', 'At', 'TLS', 'Expects', 'Because', 'By'],
      described.destinations.map(({ host, port, endpoint, tls, expects, because, rule, serviceEntry }) => [null, [
        `${host}:${port}`, endpoint, tls, expects.map((name) => h('div', null, name)), because, [serviceEntry, rule ? h('span', { class: 'below' }, `DestinationRule ${rule}`) : null],
      ], null]), 'No service is known.'),
    h('h3', null, described.findings.length === 0 ? 'Findings' : `${plural(described.findings.length, 'finding')}`),
    described.findings.length === 0 ? h('p', { class: 'empty' }, 'none') : described.findings.map(({ code, severity, place, message, cure }) => h('div', { class: `finding ${severity}` },
      h('strong', null, `${severity} ${code}`), facts([['where', place], ['what', message], ['what helps', cure]]))),
  ];
}

/** A rule as it is written: one of `from`, one of `to`, all of `when`. */
function ruleWords({ from, to, when }) {
  const fields = (list) => list.map((each) => Object.entries(each).map(([name, values]) => `${name} ${values.join(' or ')}`).join(' and ')).join('; or ');
  const words = [
    from.length > 0 ? `from ${fields(from)}` : 'from anyone',
    to.length > 0 ? `to ${fields(to)}` : 'to anything',
    ...when.map(({ key, values, notValues }) => `when ${key}${values?.length ? ` is ${values.join(' or ')}` : ''}${notValues?.length ? ` is not ${notValues.join(' or ')}` : ''}`),
  ];
  return words.join(', ');
}
