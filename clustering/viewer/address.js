// What is seen in, an address out; and back again.

import { isAsked, parseNumber } from "./columns.js";
import { NO_VALUE } from "./data.js";
import { AUTO, COLUMN, NO_CLUSTER } from "./state.js";
import { $ } from "./dom.js";

// The address of what is seen, with some choices replaced.
export function addressOf(app, changes) {
  const { state, view, map } = app;
  const told = new URLSearchParams();
  const cluster = changes.cluster ?? state.cluster;
  if (cluster !== null) told.set("cluster", cluster === NO_CLUSTER ? "noise" : cluster);
  if (state.layer !== AUTO) told.set("layer", state.layer);
  if (state.query) told.set("q", state.query);
  if (state.point !== null) told.set("text", state.point);
  // Their numbers are those of this page alone.
  if (state.point !== null || (cluster !== null && cluster !== NO_CLUSTER)) told.set("map", map.facts.key);
  if (state.time) told.set("time", state.time.map((time) => Math.round(state.date(time) / 1000)).join("-"));
  for (const [name, code] of Object.entries(state.values)) {
    if (code === NO_VALUE) told.append("without", name);
    else told.set(`is.${name}`, map.columns[name].values[code]);
  }
  for (const [name, { asked }] of Object.entries(state.found)) {
    if (asked.words !== undefined) told.set(`has.${name}`, asked.words);
    if (typeof asked.least === "number") told.set(`from.${name}`, asked.least);
    if (typeof asked.most === "number") told.set(`to.${name}`, asked.most);
  }
  if (state.strength) told.set("strength", state.strength);
  if (state.noise !== map.facts.noise) told.set("noise", state.noise ? 1 : 0);
  if (state.home) told.set("home", 1);
  if (state.color !== "cluster") told.set("color", state.color);
  if (app.theme) told.set("theme", app.theme);
  if (app.panel.tab !== "clusters") told.set("list", app.panel.tab);
  if (changes.cluster === undefined && (view.zoom !== 1 || view.x !== 0.5 || view.y !== 0.5)) {
    told.set("at", [view.x.toFixed(4), view.y.toFixed(4), view.zoom.toFixed(2)].join(","));
  }
  const hash = told.toString();
  return `${window.location.href.split("#")[0]}${hash ? `#${hash}` : ""}`;
}

// Show what the address says. What it says wrongly is as if it were not there.
export async function showAddress(app) {
  const told = new URLSearchParams(window.location.hash.slice(1));
  const { state, map, view } = app;
  const number = (name, most) => {
    const value = Number.parseInt(told.get(name), 10);
    return value >= 0 && value < most ? value : null;
  };
  const values = Object.create(null);
  const without = told.getAll("without");
  for (const { name, kind, values: known } of map.facts.columns) {
    const code = kind === "category" && told.has(`is.${name}`) ? known.indexOf(told.get(`is.${name}`)) : -1;
    if (code >= 0) values[name] = code;
    else if (kind === "category" && without.includes(name)) values[name] = NO_VALUE;
  }
  const wanted = Object.create(null);
  for (const column of map.facts.columns.filter((one) => isAsked(map, one))) {
    const { name } = column;
    const [words, least, most] = ["has", "from", "to"].map((kind) => told.get(`${kind}.${name}`));
    if (column.least === undefined) {
      if (words) wanted[name] = { words };
    } else if ([least, most].some((end) => parseNumber(end) !== null)) {
      wanted[name] = { least: parseNumber(least), most: parseNumber(most) };
    }
  }
  const times = map.columns.time && /^(-?\d+)-(-?\d+)$/.exec(told.get("time"));
  const colors = ["cluster", "strength", ...(map.columns.time ? ["time"] : [])];
  const columns = map.facts.columns.filter(({ kind }) => kind === "category").map(({ name }) => COLUMN + name);
  const asked = told.get("color") ?? "cluster"; // old addresses name a column alone
  const color = [asked, COLUMN + asked].find((one) => colors.includes(one) || columns.includes(one));
  // A link without the key of a map is an old one, or written by hand.
  const foreign = told.has("map") && told.get("map") !== map.facts.key;
  const numbered = foreign ? () => null : number;
  const cluster = told.get("cluster") === "noise" ? NO_CLUSTER : numbered("cluster", map.clusters.title.length);
  const named = ["text", "cluster"].filter((name) => told.has(name) && told.get(name) !== "noise");
  const lost = named.length === 2 ? "text and cluster are" : `${named[0]} is`;
  app.notice = foreign && named.length ? `The link is of another run's map: its ${lost} not shown. ` : "";
  const theme = ["dark", "light"].includes(told.get("theme")) ? told.get("theme") : null;
  if (theme !== app.theme) app.setTheme(theme, false);
  app.panel.tab = told.get("list") === "texts" ? "texts" : "clusters";
  state.set({
    values,
    cluster,
    selection: null,
    point: numbered("text", map.n),
    layer: number("layer", map.layers.length) ?? AUTO,
    time: times ? times.slice(1).map((seconds) => state.steps(1000 * seconds)) : null,
    strength: number("strength", 256) ?? 0,
    noise: told.has("noise") ? told.get("noise") === "1" : map.facts.noise,
    home: told.get("home") === "1",
    color: color ?? "cluster",
  });
  const at = (told.get("at") ?? "").split(",").map(Number);
  const isPlaced = at.length === 3 && at.every(Number.isFinite) && at[2] > 0;
  if (isPlaced) {
    [view.x, view.y, view.zoom] = [at[0], at[1], Math.min(160, Math.max(0.4, at[2]))];
  }
  $("query").value = told.get("q") ?? "";
  await Promise.all([app.ask(wanted), app.search($("query").value)]);
  if (state.point !== null) app.card.text(state.point);
  else if (cluster !== null) app.card.cluster(cluster);
  else app.card.close();
  if (!isPlaced) app.flyTo(cluster);
}
