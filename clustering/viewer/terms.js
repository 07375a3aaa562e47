// Some texts in; those that differ, and the words that set them apart from all others, out.

import { fold } from "./data.js";

const COUNTED = 20_000; // texts whose words are counted

// The first points whose texts do not begin alike.
export function different(points, texts, most) {
  const seen = new Set();
  const found = [];
  for (const i of points) {
    const key = fold(texts.get(i))
      .replace(/\P{L}+/gu, " ")
      .slice(0, 30);
    if (!seen.has(key)) {
      seen.add(key);
      found.push(i);
    }
    if (found.length === most) break;
  }
  return found;
}

// Words that are frequent in some texts and rare in all, strongest first.
export function topTerms(points, texts, n, most = 10) {
  const step = (all) => Math.max(1, Math.ceil(all / COUNTED));
  const own = new Map();
  const everywhere = new Map();
  const tally = (counts, i) => {
    for (const word of new Set(wordsOf(texts.get(i)))) counts.set(word, (counts.get(word) ?? 0) + 1);
  };
  let held = 0;
  let sampled = 0;
  for (let at = 0; at < points.length; at += step(points.length), held++) tally(own, points[at]);
  for (let i = 0; i < n; i += step(n), sampled++) tally(everywhere, i);
  const score = ([word, times]) => times * Math.log(times / held / ((everywhere.get(word) ?? 0.5) / sampled));
  return [...own]
    .filter(([, times]) => times > 1 || held < 4)
    .map((entry) => [entry[0], score(entry)])
    .filter(([, value]) => value > 0)
    .sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))
    .slice(0, most)
    .map(([word]) => word);
}

let segmenter;
function wordsOf(text) {
  const lower = text.toLowerCase();
  if (!/[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]/.test(lower) || !Intl.Segmenter) {
    return (lower.match(/[\p{L}\p{N}][\p{L}\p{N}\p{M}'’]*/gu) ?? []).filter((word) => word.length > 2);
  }
  segmenter ??= new Intl.Segmenter(undefined, { granularity: "word" });
  return [...segmenter.segment(lower)]
    .filter(({ isWordLike, segment }) => isWordLike && segment.length > 1)
    .map(({ segment }) => segment);
}
