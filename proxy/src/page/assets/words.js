// Figures and times as people read them.

const BYTES = ['B', 'kB', 'MB', 'GB', 'TB'];

/** 1234 -> `1.2 kB`. */
export function bytes(count) {
  let [value, unit] = [count, 0];
  while (value >= 1000 && unit < BYTES.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${BYTES[unit]}`;
}

/** Of microseconds: `0.42 ms`, `1.3 s`, `2 min 5 s`. */
export function micros(count) {
  if (count < 1_000_000) return `${(count / 1000).toFixed(count < 10_000 ? 2 : 1)} ms`;
  return seconds(count / 1_000_000);
}

/** Of seconds: `1.3 s`, `2 min 5 s`, `3 h 20 min`, `12 d 4 h`. */
export function seconds(count) {
  if (count < 60) return `${count.toFixed(count < 10 ? 1 : 0)} s`;
  const [minutes, hours, days] = [Math.floor(count / 60), Math.floor(count / 3600), Math.floor(count / 86400)];
  if (minutes < 60) return `${minutes} min ${Math.floor(count % 60)} s`;
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${days} d ${hours % 24} h`;
}

/** The time of day of an RFC 3339 text, in UTC as in the logs. */
export function time(text) {
  return /T([0-9:.]+)Z$/.exec(text ?? '')?.[1] ?? text ?? '';
}

/** A rate by the second. */
export function rate(value) {
  return value === 0 ? '0' : value < 10 ? value.toFixed(1) : String(Math.round(value));
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

/** The host of `host:port`. */
export function host(address) {
  return address?.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1') ?? null;
}

/** How a padlock is called, and what stands on it without colour. */
export const PADLOCKS = {
  closed: { sign: '√', words: 'secured' },
  app: { sign: '~', words: 'TLS of the apps’ own' },
  mixed: { sign: '!', words: 'partly in plaintext' },
  open: { sign: '×', words: 'in plaintext' },
  refused: { sign: '⊘', words: 'refused' },
};
