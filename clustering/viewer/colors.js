// Colors of clusters, categories and shares; each can be told apart by people who see red and green alike.

export const NOISE = 12; // places in the texture of colors, behind the palette
export const NONE = 13;
export const FADED = 14; // of a point that is not in focus: the opacity
export const RAMP = 16;
export const RAMP_STEPS = 64;
const LIGHT = [
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#b98200",
  "#4aa8de",
  "#332288",
  "#882255",
  "#117733",
  "#8a8a2b",
  "#2f9a88",
  "#aa4499",
];
const DARK = [
  "#4ba3e3",
  "#f5823b",
  "#2cc499",
  "#e59cc4",
  "#ebb434",
  "#8fd0f7",
  "#9a90ee",
  "#e0669a",
  "#63b96f",
  "#c9c95a",
  "#6fd3c3",
  "#d080cc",
];
const CIVIDIS = [
  "#00224e",
  "#123570",
  "#3b496c",
  "#575d6d",
  "#707173",
  "#8a8678",
  "#a59c74",
  "#c3b369",
  "#e1cc55",
  "#fee838",
];

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

// The texture: 256 colors with their opacity.
export function colorTable(dark) {
  const table = new Uint8Array(256 * 4);
  (dark ? DARK : LIGHT).forEach((hex, i) => table.set([...channels(hex), 215], 4 * i));
  table.set(dark ? [88, 94, 106, 130] : [176, 183, 193, 130], 4 * NOISE);
  table.set(dark ? [88, 94, 106, 200] : [160, 166, 176, 200], 4 * NONE);
  table.set(dark ? [88, 94, 106, 52] : [176, 183, 193, 26], 4 * FADED);
  for (let i = 0; i < RAMP_STEPS; i++) {
    const place = (i / (RAMP_STEPS - 1)) * (CIVIDIS.length - 1);
    const low = channels(CIVIDIS[Math.floor(place)]);
    const high = channels(CIVIDIS[Math.ceil(place)]);
    const lift = dark ? 40 : 0; // the darkest steps would vanish on a dark page
    const mixed = low.map((value, c) => Math.min(255, lift + value + (high[c] - value) * (place % 1)));
    table.set([...mixed, 225], 4 * (RAMP + i));
  }
  return table;
}

export const cssColor = (table, index) => `rgb(${table[4 * index]}, ${table[4 * index + 1]}, ${table[4 * index + 2]})`;
