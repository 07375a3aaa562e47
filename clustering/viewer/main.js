// The page: unpacks the map, ties its parts together, keeps what is seen in the address.

import { loadMap, loadStrings } from "./data.js";
import { colorTable } from "./colors.js";
import { Grid } from "./grid.js";
import { findTexts } from "./search.js";
import { HIDDEN, State } from "./state.js";
import { Points } from "./points.js";
import { Names } from "./names.js";
import { View, spanOf } from "./view.js";
import { $, count, plural, short, styleOf } from "./dom.js";
import { TimeBrush } from "./time.js";
import { hint } from "./actions.js";
import { Card } from "./card.js";
import { Panel } from "./panel.js";
import { Hover } from "./hover.js";
import { Lasso, pointsWithin } from "./lasso.js";
import { drawLegend } from "./legend.js";
import { Keys } from "./keys.js";
import { addressOf, showAddress } from "./address.js";
import { findRecords } from "./columns.js";

const TYPING_MS = 120; // after the last key, before the search begins
const MOST = 0.6; // of a cluster's texts
const NEAR_PX = 9; // of the mouse, a point is meant

class App {
  constructor(map) {
    this.map = map;
    this.notice = ""; // about the address, until something is picked
    this.recalling = 0; // how often at once
    this.wanted = {}; // of columns
    this.address = null; // as last read or written; until it has been read, it is not written
    this.state = new State(map);
    this.grid = new Grid(map.points.x, map.points.y);
    this.view = new View($("names"), map.n);
    this.points = new Points($("points"), map, this.state);
    this.names = new Names(map, this.state, this.grid);
    this.context = $("names").getContext("2d");
    this.setTheme(null, false);
    this.card = new Card(this);
    this.panel = new Panel(this);
    this.hover = new Hover(this);
    this.brush = new TimeBrush(this.state);
    this.state.evaluate();
    this.state.listeners.push(() => this.changed());
    this.view.onDraw = () => this.draw();
    this.view.onClick = (place) => this.click(place);
    this.view.onHover = (place, event) => this.hover.move(place, event);
    this.view.onMoved = () => this.remember();
    this.listen();
    this.keys = new Keys(this);
    $("names").setAttribute(
      "aria-label",
      `Map of ${plural(map.facts.texts, "text")} in ` +
        `${plural(map.facts.layers[map.facts.chosen], "cluster")}. Arrow keys move it, plus and minus zoom, ` +
        "Enter opens the text at the middle. The lists beside it hold the same.",
    );
    const left_out = map.facts.left_out.map(
      (name) =>
        ({
          "cell-0": "ids",
          exemplars: "texts that stand for clusters",
          near: "nearest texts",
          own: "the own texts of near-duplicates",
        })[name] ??
        `column ${map.facts.cells[name.slice("cell-".length)]}`,
    );
    const about = [`${plural(map.facts.texts, "text")}, ${plural(map.facts.run_records, "record")}.`];
    if (map.facts.points < map.facts.texts)
      about.push(`The map holds an even sample of ${count(map.facts.points)} texts, with some of every cluster.`);
    if (map.facts.records_left_out)
      about.push(
        `Of texts with very many records it holds the first ones; ${count(map.facts.records_left_out)} are left out.`,
      );
    if (left_out.length) about.push(`To keep the file small it does without ${left_out.join(", ")}.`);
    about.push(`Texts are cut at ${count(map.facts.cut)} characters. The page is one file and loads nothing.`);
    $("about").textContent = about.join(" ");
  }

  // --- what changes ---

  // Take over new choices: colors, lists, names, address.
  changed() {
    this.points.update(this.table);
    this.panel.draw();
    this.card.update();
    this.brush.draw();
    drawLegend(this.state, this.table);
    this.view.redraw();
    this.remember();
  }

  // What a part of the page asks for. byKey : the focus goes with it
  pick({ cluster, point, query, layer, tab, fly, close, clear, byKey }) {
    const { state, map } = this;
    this.notice = "";
    this.card.takesFocus = Boolean(byKey);
    if (tab) this.panel.show(tab);
    if (query !== undefined) {
      $("query").value = query;
      this.search(query);
    }
    if (layer !== undefined) state.set({ layer });
    if (clear) {
      $("query").value = "";
      this.search("");
      this.ask({});
      state.set({ values: {}, time: null, strength: 0, noise: map.facts.noise, home: false });
    }
    if (close) {
      const { hasFocus } = this.card;
      const was = { cluster: state.cluster, point: state.point };
      this.card.close();
      state.set({ cluster: null, point: null, selection: null });
      if (hasFocus && !this.panel.focus(was)) $("names").focus();
    }
    if (cluster !== undefined) {
      state.set({ cluster, point: null, selection: null });
      this.card.cluster(cluster);
      if (fly) this.flyTo(cluster);
    }
    if (point !== undefined) {
      state.set({ point });
      const [x, y] = [map.points.x[point] / 65535, map.points.y[point] / 65535];
      this.card.text(point, () => {
        if (fly) this.view.fly(x, y, Math.max(this.view.zoom, 6), this.covered());
        else this.view.redraw();
      });
    }
  }

  // Fly to a cluster; to its heart alone where few of its texts lie elsewhere, but far away.
  flyTo(cluster) {
    if (cluster === null || cluster < 0) return;
    const { state, view, map } = this;
    const [box, heart] = [map.clusters.box[cluster], map.clusters.heart[cluster]];
    const reach = (spanOf(heart) * 65535) / 2;
    const isNear = (axis, from) => (i) =>
      map.points[axis][i] >= heart[from] - reach && map.points[axis][i] <= heart[from + 2] + reach;
    const members = state.members(cluster);
    const near = members.filter(isNear("x", 0)).filter(isNear("y", 3));
    const isFar = spanOf(box) > 0.25 && spanOf(box) > 3 * spanOf(heart);
    if (isFar && near.length > MOST * members.length) view.flyToBox(heart, 0.3, this.covered());
    else view.flyToBox(box, 0.6, this.covered());
  }

  // The pixels of the map that the card covers: on its right, or below.
  covered() {
    const [card, stage] = [$("card").getBoundingClientRect(), $("names").getBoundingClientRect()];
    if (!card.width) return {};
    return card.width > stage.width * 0.7 ? { bottom: stage.bottom - card.top } : { right: stage.right - card.left };
  }

  // Select the points within a line; where there are none, say so and leave all as it is. kind : of Lasso, or "seen"
  selectWithin(line, kind) {
    const { hits, query } = this.state;
    const selection = line.length < 3 ? [] : pointsWithin(line, this.map, this.state, this.view);
    if (!selection.some((inside, i) => inside && (!hits || hits[i]))) {
      const draws = { lasso: "Draw a loop around points", box: "Draw a box around points" };
      const of = query ? ` that have “${short(query, 40)}”` : "";
      hint(draws[kind] ? `${draws[kind]}${of}, or press Esc.` : `No points${of} in view.`);
      return this.view.redraw();
    }
    this.setTool(null);
    this.state.set({ selection, cluster: null, point: null });
    return this.card.selection(this.state.focused());
  }

  async search(query) {
    const asked = (this.asked = {});
    const { state, map } = this;
    const words = query.trim();
    if (!words) return state.set({ query: "", hits: null });
    const texts = await loadStrings("texts", map.n);
    const own = await loadStrings("own", map.facts.records);
    const hits = await findTexts(map.first, texts, own, words, () => this.asked !== asked);
    if (hits && this.asked === asked) state.set({ query: words, hits });
    return undefined;
  }

  // Show only records that have what is asked of columns: of each, `{words}` or `{least, most}`.
  async ask(wanted) {
    this.wanted = wanted;
    const found = Object.create(null);
    for (const [name, asked] of Object.entries(wanted)) {
      const known = this.state.found[name];
      const isKnown = known && JSON.stringify(known.asked) === JSON.stringify(asked);
      const records = isKnown
        ? known.records
        : await findRecords(this.map, name, asked, () => this.wanted !== wanted);
      if (this.wanted !== wanted) return;
      found[name] = { asked, records };
    }
    this.state.set({ found });
  }

  setTheme(theme, redraw = true) {
    this.theme = theme;
    const dark = theme ? theme === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    this.table = colorTable(dark);
    this.dark = dark;
    if (redraw) this.changed();
    else this.points.update(this.table);
  }

  setTool(kind) {
    this.view.drawing = kind ? new Lasso(kind, this) : null;
    $("names").classList.toggle("drawing", Boolean(kind));
    for (const name of ["lasso", "box"])
      document.querySelector(`[data-tool="${name}"]`).setAttribute("aria-pressed", name === kind);
  }

  useTool(name) {
    const { view } = this;
    const tools = {
      in: () => view.zoomAt(1.6),
      out: () => view.zoomAt(1 / 1.6),
      whole: () => view.fly(0.5, 0.5, 1),
      lasso: () => this.setTool(view.drawing?.kind === "lasso" ? null : "lasso"),
      box: () => this.setTool(view.drawing?.kind === "box" ? null : "box"),
      seen: () =>
        this.selectWithin([
          [0, 0],
          [view.width, 0],
          [view.width, view.height],
          [0, view.height],
        ], "seen"),
      theme: () => this.setTheme(this.dark ? "light" : "dark"),
      help: () => $("help").showModal(),
    };
    tools[name]?.();
  }

  // --- drawing ---

  draw() {
    const { view, context } = this;
    for (const id of ["points", "names"]) {
      const [width, height] = [Math.round(view.width * view.ratio), Math.round(view.height * view.ratio)];
      if ($(id).width !== width || $(id).height !== height) Object.assign($(id), { width, height });
    }
    const camera = {
      x: view.x,
      y: view.y,
      scale: view.scale,
      width: view.width,
      height: view.height,
      ratio: view.ratio,
      size: view.size,
      moving: view.moving,
    };
    this.points.draw(camera);
    context.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    if (!view.moving || view.zoom !== this.namedAt) {
      this.names.layout(view, this.covered());
      this.namedAt = view.zoom;
      const named = this.names.placed.map(({ cluster }) => this.map.clusters.title[cluster]);
      if (!view.moving) $("names").setAttribute("aria-description", `In view: ${named.join("; ") || "no names"}`);
    }
    this.names.draw(context, view, {
      halo: this.dark ? "#14161ae6" : "#ffffffe6",
      color: (cluster) => this.nameColor(cluster),
    });
    if (this.state.point !== null) this.drawRing(this.state.point);
    if (this.crosshair) this.drawCrosshair();
    view.drawing?.draw(context, styleOf("--accent"));
    this.frames = (this.frames ?? 0) + 1;
  }

  // That of its points, which have the color of the cluster around them; a broader one has points of many colors.
  nameColor(cluster) {
    const { parent, layers, color } = this.map.clusters;
    let own = cluster;
    while (own >= 0 && !layers[own].includes(this.state.level)) own = parent[own];
    if (own < 0) return styleOf("--text");
    const at = 4 * color[own];
    const mixed = [...this.table.subarray(at, at + 3)].map((value) =>
      Math.round(this.dark ? 80 + value * 0.68 : value * 0.62),
    );
    return `rgb(${mixed})`;
  }

  drawRing(i) {
    const { context, view, map } = this;
    context.beginPath();
    context.arc(view.toX(map.points.x[i]), view.toY(map.points.y[i]), Math.max(7, view.size), 0, 7);
    context.strokeStyle = styleOf("--text");
    context.lineWidth = 2;
    context.stroke();
  }

  drawCrosshair() {
    const { context, view } = this;
    context.strokeStyle = styleOf("--quiet");
    context.lineWidth = 1;
    context.strokeRect(view.width / 2 - 8, view.height / 2 - 8, 16, 16);
  }

  // --- the mouse ---

  pointAt([x, y]) {
    const radius = (NEAR_PX / this.view.scale) * 65535;
    return this.grid.nearest(this.view.fromX(x), this.view.fromY(y), radius, (i) => this.state.status[i] !== HIDDEN);
  }

  click(place) {
    const point = this.pointAt(place);
    const cluster = this.names.hit(...place);
    if (cluster !== null) return this.pick({ cluster, fly: true });
    return this.pick(point >= 0 ? { point } : { close: true });
  }

  // Records of a text in the run, some of which the page may lack.
  copies(i) {
    return (this.map.points.copies ?? this.map.points.records)[i];
  }

  listen() {
    let typing;
    $("query").addEventListener("input", (event) => {
      clearTimeout(typing);
      typing = setTimeout(() => this.search(event.target.value), TYPING_MS);
    });
    $("query").addEventListener("keydown", async (event) => {
      if (event.isComposing || !["Enter", "ArrowDown"].includes(event.key)) return;
      event.preventDefault();
      if (event.key === "ArrowDown") this.panel.focus();
      else if (event.target.value.trim()) {
        clearTimeout(typing);
        await this.search(event.target.value);
        await this.panel.openFirst();
      }
    });
    $("tools").addEventListener("click", (event) => this.useTool(event.target.closest("button")?.dataset.tool));
    window.addEventListener("resize", () => {
      this.view.fit();
      this.brush.draw();
    });
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.setTheme(this.theme));
    window.addEventListener("hashchange", () => this.recall());
  }

  // --- the address ---

  link(changes = {}) {
    return addressOf(this, changes);
  }

  remember() {
    clearTimeout(this.remembering);
    this.remembering = setTimeout(() => {
      // Another address than the last known one is about to be recalled, and must not be written over.
      if (this.recalling || window.location.href !== this.address || this.link() === this.address) return;
      window.history.replaceState(null, "", this.link());
      this.address = window.location.href;
    }, 150);
  }

  async recall() {
    this.recalling += 1;
    this.address = window.location.href;
    await showAddress(this);
    this.recalling -= 1;
    this.view.redraw();
  }
}

async function start() {
  const app = new App(await loadMap());
  app.view.fit();
  app.changed();
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  document.documentElement.dataset.ready = Math.round(performance.now()); // the first picture is there
  const texts = await loadStrings("texts", app.map.n);
  document.documentElement.dataset.texts = Math.round(performance.now()); // texts can be read
  await app.recall();
  document.documentElement.dataset.recalled = "";
  const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 50));
  const prepare = (chunk) => {
    // so that the first search need not
    if (chunk >= texts.chunks) return;
    texts.chunk(chunk);
    idle(() => prepare(chunk + 1));
  };
  prepare(0);
}

start().catch((error) => {
  const hint = "DecompressionStream" in window ? "" : ". It needs a browser of 2023 or later.";
  $("summary").textContent = `This page cannot be shown: ${error.message}${hint}`;
  throw error;
});
