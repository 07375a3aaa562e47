// The packed columns of the page in; typed arrays and strings out.

export const NO_TIME = 0xffffffff; // of a record without a time
export const NO_VALUE = 0xffff; // of a record without a value in a column
const END = 0x1f; // follows each string but the last
const CHUNK = 4096; // strings that are folded and searched together
const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, int32: Int32Array };
const decoder = new TextDecoder();

// Bytes from numbers to base 85, five digits for four bytes; the first character is how many bytes too many there are.
function fromBase85(text) {
  const digits = new Uint8Array(128);
  for (let code = 35, digit = 0; code < 127; code++) {
    if (!"&'<>\\`".includes(String.fromCharCode(code))) digits[code] = digit++;
  }
  const size = ((text.length - 1) / 5) * 4;
  const bytes = new Uint8Array(size);
  for (let at = 1, to = 0; to < size; at += 5, to += 4) {
    let number = 0;
    for (let i = at; i < at + 5; i++) number = number * 85 + digits[text.charCodeAt(i)];
    bytes[to] = number >>> 24;
    bytes[to + 1] = number >>> 16;
    bytes[to + 2] = number >>> 8;
    bytes[to + 3] = number;
  }
  return bytes.subarray(0, size - Number(text[0]));
}

// The bytes of a pack, or null where the page was left without it. Its element is removed, since it is large.
export async function unpack(name) {
  const element = document.getElementById(`data-${name}`);
  if (!element) return null;
  const packed = new Blob([fromBase85(element.textContent)]);
  element.remove();
  return new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// Facts, and the arrays of points and records; the names of columns may be anything. `first[i]` is the first record of
// point i, `first[i + 1]` ends them.
export async function loadMap() {
  const facts = JSON.parse(decoder.decode(await unpack("facts")));
  const buffer = await unpack("points");
  const map = { facts, clusters: facts.clusters, n: facts.points, points: {}, records: Object.create(null) };
  for (const { group, name, type, at, length } of facts.arrays) {
    map[group][name] = new TYPES[type](buffer, at, length);
  }
  map.layers = facts.layers.map((_, number) => map.points[`layer${number}`]);
  map.first = new Uint32Array(map.n + 1);
  for (let i = 0; i < map.n; i++) map.first[i + 1] = map.first[i] + map.points.records[i];
  map.children = map.clusters.title.map(() => []);
  map.roots = [];
  map.clusters.parent.forEach((parent, own) => (parent < 0 ? map.roots : map.children[parent]).push(own));
  map.isPartial = facts.points < facts.texts || facts.records_left_out > 0; // it lacks records of the run
  map.columns = Object.fromEntries(facts.columns.map((column) => [column.name, column]));
  return map;
}

// Strings in UTF-8, one after another; each is decoded when it is asked for.
export class Strings {
  constructor(buffer, length) {
    this.bytes = new Uint8Array(buffer);
    this.length = length;
    this.start = new Uint32Array(length + 1);
    for (let i = 1; i < length; i++) this.start[i] = this.bytes.indexOf(END, this.start[i - 1]) + 1;
    this.start[length] = this.bytes.length + 1;
    this.folded = [];
  }

  get(i) {
    return decoder.decode(this.bytes.subarray(this.start[i], this.start[i + 1] - 1));
  }

  isEmpty(i) {
    return this.start[i + 1] - this.start[i] < 2;
  }

  get chunks() {
    return Math.ceil(this.length / CHUNK);
  }

  // The strings of a chunk as they are compared, in one string, and where each begins.
  chunk(number) {
    if (!this.folded[number]) {
      const from = number * CHUNK;
      const to = Math.min(from + CHUNK, this.length);
      const text = fold(decoder.decode(this.bytes.subarray(this.start[from], this.start[to] - 1)));
      const start = new Uint32Array(to - from + 1);
      for (let i = 1; i < to - from; i++) start[i] = text.indexOf("\x1f", start[i - 1]) + 1;
      start[to - from] = text.length + 1;
      this.folded[number] = { text, start, from };
    }
    return this.folded[number];
  }
}

// A text as searches compare it: in lower case, without accents, full-width letters as usual ones.
export function fold(text) {
  const lower = text.toLowerCase();
  if (!/[^\x00-\x7f]/.test(lower)) return lower;
  return lower.replace(/[\u00aa-\u036f\u1e00-\u1eff\uff01-\uff5e]+/g, (some) =>
    some.normalize("NFKD").replace(/\p{M}+/gu, ""),
  );
}

// A pack of strings, or null where the page has none. Each is unpacked once.
const loaded = new Map();
export function loadStrings(name, length) {
  if (!loaded.has(name)) {
    loaded.set(
      name,
      unpack(name).then((buffer) => buffer && new Strings(buffer, length)),
    );
  }
  return loaded.get(name);
}

// The strings of a column of the records, by its name.
export function loadCells(map, name) {
  return loadStrings(`cell-${map.facts.cells.indexOf(name)}`, map.facts.records);
}

// Positions of the nearest texts of each, `per` of them, -1 for none; null where the page has none.
let nearest;
export function loadNear(n) {
  nearest ??= unpack("near").then((buffer) => {
    if (!buffer) return null;
    const bytes = new Uint8Array(buffer);
    const size = bytes.length / 4;
    const per = size / n;
    const near = new Int32Array(size);
    for (let i = 0; i < size; i++) {
      const coded = bytes[i] | (bytes[size + i] << 8) | (bytes[2 * size + i] << 16) | (bytes[3 * size + i] << 24);
      const step = coded & 1 ? coded >>> 1 : -(coded >>> 1);
      near[i] = coded ? Math.floor(i / per) + step : -1;
    }
    return { near, per };
  });
  return nearest;
}
