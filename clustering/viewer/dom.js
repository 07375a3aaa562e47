// Small helpers of the page: elements, numbers, dates, files. Texts of others only ever become text nodes.

const TOLD_MS = 2_000; // that a button says what it has done

export const $ = (id) => document.getElementById(id);

// An element. Attributes that are functions are listeners, those that are null or false are left out.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "style") Object.assign(element.style, value);
    else if (name.startsWith("aria-")) element.setAttribute(name, value);
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// A text of others: set apart from the direction of what is around it.
export const said = (text, attributes = {}) => make("span", { class: "text", dir: "auto", ...attributes }, text);

// The same, with the words of a search marked.
export function marked(text, words) {
  const found = words.filter(Boolean).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!found.length) return said(text);
  const pieces = text.split(new RegExp(`(${found.join("|")})`, "gi"));
  return make(
    "span",
    { class: "text", dir: "auto" },
    pieces.map((piece, i) => (i % 2 ? make("mark", {}, piece) : piece)),
  );
}

// A long value, or one of several lines, as it is told.
export const short = (text, most = 300) => {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > most ? `${line.slice(0, most - 1)}…` : line;
};

const numbers = new Intl.NumberFormat("en");
export const count = (n) => numbers.format(n);
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
export const share = (part, whole) => {
  const percent = (100 * part) / Math.max(1, whole);
  return `${percent && percent < 1 ? "<1" : Math.round(percent)} %`;
};
export const day = (date) => date.toISOString().slice(0, 10);
export const moment = (date) => {
  const text = date.toISOString();
  return text.endsWith("00:00:00.000Z") ? text.slice(0, 10) : `${text.slice(0, 10)} ${text.slice(11, 16)}`;
};

// A link that leads to the web, or null: pages of other kinds (javascript:, data:, file:) are not opened.
export function webLink(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = make("textarea", { readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

// Say on a button what it has done, and then again what it does.
export function flash(button, words) {
  button.dataset.does ??= button.textContent;
  button.textContent = words;
  setTimeout(() => {
    button.textContent = button.dataset.does;
  }, TOLD_MS);
}

// One cell of csv. A spreadsheet would run a text that begins like a formula, also in full width; ids stay as they are,
// since they are joined by.
export function cell(value, isId = false) {
  const text = String(value);
  const isText = typeof value === "string" && !isId;
  const safe = isText && /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function download(name, content) {
  const url = URL.createObjectURL(new Blob(["\ufeff", content], { type: "text/csv" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// A canvas of the page in its own pixels: its context, scaled, and its size.
export function prepared(canvas) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height };
}

export const styleOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
