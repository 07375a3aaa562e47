// A query and strings in; which of them hold all its words out.

import { fold } from "./data.js";

const SLICE_MS = 25; // of work, before the page may answer to somebody

// Words that must be there, and those that must not; words in quotes stay together.
export function parseQuery(query) {
  const wanted = [];
  const unwanted = [];
  for (const [, minus, quoted, word] of fold(query).matchAll(/(-?)(?:"([^"]*)"?|(\S+))/g)) {
    const sought = (quoted ?? word).replace(/\x1f/g, "");
    if (sought) (minus ? unwanted : wanted).push(sought);
  }
  wanted.sort((a, b) => b.length - a.length); // the longest is the rarest, as a rule
  return { wanted, unwanted };
}

export function holds(folded, { wanted, unwanted }) {
  return wanted.every((word) => folded.includes(word)) && !unwanted.some((word) => folded.includes(word));
}

// 1 for each point whose text, or the own text of one of its records, has what the query asks for; null once stale.
// first : record of each point; own : texts of the records, "" where it is that of the point; null where all are
export async function findTexts(first, texts, own, query, isStale) {
  const hits = await findStrings(texts, query, isStale);
  const of_records = hits && own && (await findStrings(own, query, isStale));
  if (!of_records) return own ? null : hits;
  for (let i = 0; i < hits.length; i++)
    for (let r = first[i]; r < first[i + 1] && !hits[i]; r++) if (of_records[r] && !own.isEmpty(r)) hits[i] = 1;
  return hits;
}

// 1 for each string that has what the query asks for; null once `isStale()`.
export async function findStrings(strings, query, isStale) {
  const parsed = parseQuery(query);
  const hits = new Uint8Array(strings.length);
  let since = performance.now();
  for (let number = 0; number < strings.chunks; number++) {
    searchChunk(strings.chunk(number), parsed, hits);
    if (performance.now() - since > SLICE_MS) {
      await new Promise((resolve) => setTimeout(resolve));
      if (isStale()) return null;
      since = performance.now();
    }
  }
  return hits;
}

function searchChunk({ text, start, from }, parsed, hits) {
  const [first, ...others] = parsed.wanted;
  const rest = { wanted: others, unwanted: parsed.unwanted };
  const plain = !others.length && !parsed.unwanted.length;
  const n = start.length - 1;
  for (let at = 0, i = 0; i < n; i++, at = start[i]) {
    if (first !== undefined) {
      at = text.indexOf(first, at);
      if (at < 0) return;
      while (start[i + 1] <= at) i++;
    }
    if (plain || holds(text.slice(start[i], start[i + 1] - 1), rest)) hits[from + i] = 1;
  }
}
