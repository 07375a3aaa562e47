// What is asked of the columns of the records in; for each column, which records have it out.

import { NO_VALUE, loadCells } from "./data.js";
import { findStrings } from "./search.js";

// Whether a filter can ask something of a column: of one that is only shown, the page must hold the strings.
export function isAsked(map, { name, kind, values, least }) {
  if (kind === "category") return least !== undefined && values.length > 2;
  return kind === "text" && !map.facts.left_out.includes(`cell-${map.facts.cells.indexOf(name)}`);
}

// A number, or null where a field or an address has none.
export function parseNumber(text) {
  const number = text?.trim() ? Number(text) : NaN;
  return Number.isFinite(number) ? number : null;
}

// 1 for each record that has what is asked; null once `isStale()`.
// asked : {words}, or {least, most} of numbers, each null where all will do
export async function findRecords(map, name, asked, isStale) {
  if (asked.words !== undefined) return findStrings(await loadCells(map, name), asked.words, isStale);
  const numbers = await loadNumbers(map, name);
  const [least, most] = [asked.least ?? -Infinity, asked.most ?? Infinity];
  const found = new Uint8Array(numbers.length);
  for (let r = 0; r < found.length; r++) found[r] = numbers[r] >= least && numbers[r] <= most ? 1 : 0;
  return found;
}

// The numbers of a column, NaN for none. Each is made once.
const made = new Map();
async function loadNumbers(map, name) {
  if (made.has(name)) return made.get(name);
  const numbers = new Float64Array(map.facts.records);
  const toNumber = (text) => (text ? Number(text) : NaN);
  if (map.columns[name].kind === "category") {
    const values = map.columns[name].values.map(toNumber);
    const codes = map.records[name];
    for (let r = 0; r < numbers.length; r++) numbers[r] = codes[r] === NO_VALUE ? NaN : values[codes[r]];
  } else {
    const cells = await loadCells(map, name);
    for (let r = 0; r < numbers.length; r++) numbers[r] = toNumber(cells.get(r));
  }
  made.set(name, numbers);
  return numbers;
}
