// Elements from data. Text is only ever put in as text: no string becomes markup, whatever a stranger has sent.

const SVG = 'http://www.w3.org/2000/svg';

/** An HTML element. Attributes that are null, undefined or false are left out; children are elements, texts and lists of them. */
export function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element, likewise. */
export function svg(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'href' && !String(value).startsWith('#/')) throw new Error('a link leads to a view of this page only');
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? '' : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : visible(String(child)));
  }
  return element;
}

/** Text with what cannot be seen, or turns the direction of what follows, made visible. */
export function visible(text) {
  return text.replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu,
    (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`);
}

/** Makes what stands in `parent` equal to `children`, and keeps each element that can stay, so that focus, selection and what
 * was unfolded stay too. Elements with a `data-key` are known by it. */
export function show(parent, ...children) {
  adjust(parent, children.flat(Infinity).filter((child) => child instanceof Node));
}

function adjust(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.children) if (key(child)) keyed.set(key(child), child);
  let here = parent.firstChild;
  for (const child of wanted) {
    const known = key(child) ? keyed.get(key(child)) : here && !key(here) && alike(here, child) ? here : null;
    if (known && alike(known, child)) {
      if (known === here) here = here.nextSibling;
      else parent.insertBefore(known, here);
      renew(known, child);
    } else {
      parent.insertBefore(child, here);
    }
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

function key(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute('data-key') : null;
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && key(one) === key(other);
}

function renew(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // What a person has unfolded stays so.
    if (!fresh.hasAttribute(name) && !(name === 'open' && old.nodeName === 'DETAILS')) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  adjust(old, [...fresh.childNodes]);
}

/** Characters of a text that may be broken anywhere. */
const LONG = 50;

/** A table that can be scrolled where it is too wide, and that becomes a list of cards on a phone, which is why its roles are
 * written out. `rows` are `[key, cells, class]`. */
export function table(caption, head, rows, empty) {
  if (rows.length === 0) return h('p', { class: 'empty' }, empty);
  const cell = (content, place) => h('td', { role: 'cell', 'data-head': head[place], class: isLong(content) ? 'long' : null },
    Array.isArray(content) ? h('div', null, content) : content);
  return h('div', { class: 'wide', role: 'region', 'aria-label': caption, tabindex: '0' },
    h('table', { role: 'table', 'aria-label': caption },
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, head.map((text) => h('th', { role: 'columnheader', scope: 'col' }, text)))),
      h('tbody', { role: 'rowgroup' }, rows.map(([name, cells, kind]) =>
        h('tr', { role: 'row', 'data-key': name, class: kind }, cells.map(cell))))));
}

function isLong(content) {
  return typeof content === 'string' ? content.length > LONG : Array.isArray(content) && content.some(isLong);
}

/** Terms and what they are; what is not known is left out. */
export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== '' && !(Array.isArray(value) && value.length === 0));
  return h('dl', { class: 'facts' }, known.map(([term, value]) => [h('dt', null, term), h('dd', null, value)]));
}
