// State in; the clusters that are listed beside the map, as a tree where they are of all layers, out.

import { NO_TIME, fold } from "./data.js";
import { NOISE, cssColor } from "./colors.js";
import { parseQuery, holds } from "./search.js";
import { AUTO, NO_CLUSTER } from "./state.js";
import { count, day, make, said } from "./dom.js";

const FEW = 100; // clusters that a search finds, up to which the tree is unfolded

export class ClusterList {
  // panel : {lines, order, draw, more}
  constructor(app, panel) {
    Object.assign(this, { app, panel });
    this.unfolded = new Set();
    this.folded = new Set(); // of a tree that a search has unfolded
    this.times = {}; // of all clusters, without the noise that counts with them and with it
    this.titles = app.map.clusters.title.map(fold);
  }

  // Find which clusters are listed: those with records that are shown, those whose title has what is searched, and in
  // a tree those around them.
  find() {
    const { state, map } = this.app;
    const { parent, layers } = map.clusters;
    const query = state.query ? parseQuery(state.query) : null;
    const isNamed = (cluster) => query?.wanted.length && holds(this.titles[cluster], query);
    const isTree = state.layer === AUTO;
    this.listed = new Set();
    this.titles.forEach((_, cluster) => {
      if (!isTree && !layers[cluster].includes(state.layer)) return;
      if (!state.counts[cluster] && !isNamed(cluster)) return;
      for (let up = cluster; up >= 0 && !this.listed.has(up); up = isTree ? parent[up] : -1) this.listed.add(up);
    });
    this.top = isTree ? map.roots.filter((cluster) => this.listed.has(cluster)) : [...this.listed];
    this.opens = Boolean(query) && this.listed.size <= FEW;
  }

  // How many clusters are listed, in words that agree with the lines.
  get told() {
    const finer = this.listed.size - this.top.length;
    const broad = `${count(this.top.length)} ${this.top.length === 1 ? "cluster" : "clusters"}`;
    return finer ? `${broad} and ${count(finer)} finer ${finer === 1 ? "one" : "ones"}` : broad;
  }

  isOpen(cluster) {
    return this.opens ? !this.folded.has(cluster) : this.unfolded.has(cluster);
  }

  // Unfold or fold a cluster.
  turn(cluster) {
    const set = this.opens ? this.folded : this.unfolded;
    if (!set.delete(cluster)) set.add(cluster);
    this.panel.draw();
  }

  // Unfold what is around a cluster, so that it has a line.
  reveal(cluster) {
    if (cluster === null || cluster === NO_CLUSTER || !this.listed.has(cluster)) return;
    const { parent } = this.app.map.clusters;
    let top = cluster;
    for (let up = parent[cluster]; up >= 0 && this.listed.has(up); up = parent[up]) {
      this.unfolded.add(up);
      this.folded.delete(up);
      top = up;
      this.panel.lines = Math.max(this.panel.lines, 1 + this.sorted(this.inside(up)).indexOf(cluster));
    }
    this.panel.lines = Math.max(this.panel.lines, 1 + this.sorted(this.top).indexOf(top));
  }

  // The clusters that are listed within one.
  inside(cluster) {
    return this.app.state.layer === AUTO ? this.app.map.children[cluster].filter((own) => this.listed.has(own)) : [];
  }

  // The list. The noise has a line at its end.
  draw() {
    const { state } = this.app;
    const list = this.items(this.top);
    if (state.unplaced) list.append(make("li", {}, this.line(NO_CLUSTER)));
    if (!list.childElementCount) list.append(make("li", { class: "quiet" }, "No cluster has this."));
    return list;
  }

  items(clusters) {
    const { lines } = this.panel;
    const shown = this.sorted(clusters).slice(0, lines);
    const list = make("ul", {}, ...shown.map((cluster) => this.item(cluster)));
    if (clusters.length > lines) list.append(make("li", {}, this.panel.more(clusters.length)));
    return list;
  }

  item(cluster) {
    const inner = this.inside(cluster);
    const isOpen = inner.length > 0 && this.isOpen(cluster);
    const about = {
      class: "fold",
      "aria-expanded": isOpen,
      "aria-label": `${isOpen ? "Hide" : "Show"} the finer clusters`,
      "data-cluster": cluster,
      click: () => this.turn(cluster),
    };
    const fold_button = inner.length
      ? make("button", about, isOpen ? "▾" : "▸")
      : this.app.state.layer === AUTO
        ? make("span", { class: "fold" })
        : null;
    const row = make("div", { class: "item" }, fold_button, this.line(cluster));
    return make("li", {}, row, isOpen ? this.items(inner) : null);
  }

  line(cluster) {
    const { map, state, table } = this.app;
    const noise = cluster === NO_CLUSTER;
    const color = noise ? cssColor(table, NOISE) : cssColor(table, map.clusters.color[cluster]);
    const own = noise ? state.unplaced : state.counts[cluster];
    const whole = noise ? own : state.sizes[cluster];
    const told = own === whole ? count(whole) : `${count(own)} of ${count(whole)}`;
    const order = this.panel.order.clusters;
    const when = !noise && (order === "first" || order === "last") ? this.time(cluster, order === "last") : Infinity;
    const date = Number.isFinite(when) ? ` · ${day(state.date(when))}` : "";
    return make(
      "button",
      {
        class: `line${state.cluster === cluster ? " chosen" : ""}`,
        "data-line": cluster,
        "aria-current": state.cluster === cluster,
        click: (event) => this.app.pick({ cluster, fly: true, byKey: event.detail === 0 }),
      },
      make("span", { class: "dot", "aria-hidden": "true", style: { background: color } }),
      said(noise ? "noise" : map.clusters.title[cluster], { class: "title" }),
      make("span", { class: "count" }, told + date),
    );
  }

  // When the first or last record of a cluster is.
  time(cluster, last) {
    const { map, state } = this.app;
    if (!this.times[state.home]) {
      const times = map.clusters.title.map(() => [Infinity, -Infinity]);
      for (const layer of state.layers) {
        for (let i = 0; i < map.n; i++) {
          if (layer[i] < 0) continue;
          const own = times[layer[i]];
          for (let r = map.first[i]; r < map.first[i + 1]; r++) {
            const time = map.records.time[r];
            if (time === NO_TIME) continue;
            own[0] = Math.min(own[0], time);
            own[1] = Math.max(own[1], time);
          }
        }
      }
      this.times[state.home] = times;
    }
    return this.times[state.home][cluster][last ? 1 : 0];
  }

  sorted(clusters) {
    const { state, map } = this.app;
    const narrowed = state.isFocused || state.total.shown < map.facts.records;
    const { title } = map.clusters;
    const { sizes } = state;
    const by = {
      size: (a, b) => (narrowed ? state.counts[b] - state.counts[a] : 0) || sizes[b] - sizes[a],
      title: (a, b) => title[a].localeCompare(title[b]),
      first: (a, b) => this.time(a, false) - this.time(b, false),
      last: (a, b) => this.time(b, true) - this.time(a, true),
    }[this.panel.order.clusters];
    return [...clusters].sort((a, b) => by(a, b) || a - b);
  }
}
