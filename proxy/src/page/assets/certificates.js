// Each sidecar's certificate with its age, whom it believes, and its renewals.

import { facts, h, svg, table } from './html.js';
import { plural, seconds, time } from './words.js';

/** By sidecar: its /certs, and of which certificate they are. */
const known = new Map();
/** How often they are asked for again, in milliseconds: renewals go on. */
const AGAIN = 30_000;

/** The view of the certificates. */
export function certificates(state, { again }) {
  return [
    h('h1', { tabindex: '-1' }, 'Certificates'),
    state.proxies.map((proxy) => sidecar(state, proxy, again)),
    h('h2', null, 'New certificates since this page was opened'),
    table('New certificates', ['At', 'Sidecar', 'Identity', 'Valid until'], state.rotations.map(({ proxy, identity, notAfter, at }) => [null, [
      time(at), state.proxies[proxy]?.name ?? '', identity ?? 'none', notAfter ?? ''], null]), 'None yet.'),
  ];
}

function sidecar(state, proxy, again) {
  const old = known.get(proxy.number);
  const stage = `${proxy.certificate} ${proxy.down}`;
  if (!proxy.down && (old?.stage !== stage || Date.now() - old.asked > AGAIN)) {
    known.set(proxy.number, { ...old, stage, asked: Date.now() });
    state.page(proxy.number, 'certs').then((certs) => {
      known.set(proxy.number, { stage, asked: Date.now(), certs });
      again();
    }, (fault) => {
      known.set(proxy.number, { ...old, stage, asked: Date.now(), fault: fault.message });
      again();
    });
  }
  const { certs, fault } = known.get(proxy.number) ?? {};
  return h('section', { class: 'sidecar', 'data-key': `certs${proxy.number}`, 'aria-label': `Certificates of ${proxy.name}` },
    h('h2', null, proxy.name),
    proxy.down ? h('p', { class: 'wrong' }, `× does not answer: ${proxy.down}`) : null,
    fault ? h('p', { class: 'wrong' }, `× ${fault}`) : null,
    certs ? shown(certs, proxy) : null);
}

function shown(certs, { skew }) {
  const now = Date.now() + skew;
  const { renewals, revocationLists, federation, destinationRuleFiles } = certs;
  return [
    h('p', { class: 'summary' }, h('span', { class: certs.valid ? 'right' : 'wrong' }, certs.valid ? '√ ' : '× '), certs.identity ?? 'no certificate yet'),
    h('h3', null, 'Its chain, as peers are shown it'),
    certs.chain.map((one, place) => card(one, place === 0 ? 'own certificate' : 'intermediate', now)),
    h('h3', null, 'Whom it believes'),
    Object.entries(certs.bundles).map(([domain, roots]) => [
      h('h4', null, `trust domain ${domain}: ${plural(roots.length, 'root')}`, federation?.[domain]?.lastError ? h('span', { class: 'wrong' }, ` × ${federation[domain].lastError}`) : null),
      roots.map((root) => card(root, 'root', now)),
    ]),
    h('h3', null, 'Renewals'),
    facts([
      ['taken into use', renewals.succeeded], ['failed', renewals.failed],
      ['newest fault', renewals.lastError ? h('span', { class: 'wrong' }, `× ${renewals.lastError}`) : 'none'],
      ['asks next', renewals.next ?? 'when files or the agent have something new'],
      ['revocation lists', revocationLists ? `${revocationLists.path}: ${JSON.stringify(revocationLists.holds)}, next by ${revocationLists.nextUpdate ?? 'no time'}` : null],
    ]),
    Object.keys(destinationRuleFiles ?? {}).length > 0 ? h('details', null, h('summary', null, 'Files of DestinationRules'), h('pre', { tabindex: '0' }, JSON.stringify(destinationRuleFiles, null, 2))) : null,
  ];
}

function card({ subject, issuer, serial, notBefore, notAfter, uris, subjectKeyId }, what, now) {
  const [from, to] = [Date.parse(notBefore), Date.parse(notAfter)];
  const share = Math.min(1, Math.max(0, (now - from) / (to - from)));
  const left = (to - now) / 1000;
  const words = left <= 0 ? `× ended ${seconds(-left)} ago` : now < from ? '× not valid yet' : `${seconds(left)} left of ${seconds((to - from) / 1000)}`;
  return h('div', { class: 'certificate', 'data-key': `${serial}${what}` },
    h('div', { class: 'card-head' }, h('strong', null, what), h('span', { class: left <= 0 || now < from ? 'wrong' : '' }, words)),
    Number.isFinite(share) ? svg('svg', { class: 'age', viewBox: '0 0 100 4', preserveAspectRatio: 'none', role: 'img', 'aria-label': `${Math.round(share * 100)} % of its life is over` },
      svg('rect', { class: 'life', width: 100, height: 4 }), svg('rect', { class: share > 0.85 ? 'over late' : 'over', width: share * 100, height: 4 })) : null,
    facts([['proves', uris?.join(', ')], ['subject', subject], ['issuer', issuer], ['serial', serial], ['key id', subjectKeyId], ['valid', notBefore ? `${notBefore} to ${notAfter}` : null]]));
}
