// State in; the lists of clusters and texts and the summary beside the map out.

import { NO_TIME, fold, loadStrings } from "./data.js";
import { cssColor, NOISE } from "./colors.js";
import { parseQuery, holds } from "./search.js";
import { Filters } from "./filters.js";
import { AUTO, NO_CLUSTER } from "./state.js";
import { $, count, day, make, marked, moment, plural, said, share } from "./dom.js";

const PAGE = 100; // lines, before more are asked for

const CLUSTER_ORDERS = { size: "size", title: "title", first: "first seen", last: "last seen" };
const TEXT_ORDERS = { strength: "strength", first: "oldest first", last: "newest first" };

export class Panel {
  constructor(app) {
    this.app = app;
    this.tab = "clusters";
    this.order = { clusters: "size", texts: "strength" };
    this.unfolded = new Set();
    this.lines = PAGE;
    for (const tab of ["clusters", "texts"]) $(`tab-${tab}`).addEventListener("click", () => this.show(tab));
    $("sort").addEventListener("change", (event) => {
      this.order[this.tab] = event.target.value;
      this.lines = PAGE;
      this.draw();
    });
    $("list").addEventListener("keydown", (event) => this.key(event));
    this.titles = app.map.clusters.title.map(fold);
    this.filters = new Filters(app);
  }

  show(tab) {
    this.tab = tab;
    this.lines = PAGE;
    this.draw();
  }

  draw() {
    const { state, map } = this.app;
    for (const tab of ["clusters", "texts"]) $(`tab-${tab}`).setAttribute("aria-selected", tab === this.tab);
    $("list").setAttribute("aria-labelledby", `tab-${this.tab}`);
    const orders = this.tab === "clusters" ? CLUSTER_ORDERS : TEXT_ORDERS;
    const usable = Object.entries(orders).filter(([key]) => map.records.time || (key !== "first" && key !== "last"));
    $("sort").replaceChildren(...usable.map(([value, label]) => make("option", { value }, label)));
    $("sort").value = this.order[this.tab];
    this.filters.draw();
    this.summarize();
    if (this.tab === "clusters") this.drawClusters();
    else this.drawTexts();
  }

  summarize() {
    const { state, map } = this.app;
    const { total } = state;
    const { facts } = map;
    const told = [];
    if (state.isFocused || total.records < facts.records) {
      told.push(`${count(total.records)} of ${plural(facts.records, "record")}`);
      if (state.query) told[0] += ` ${total.records === 1 ? "has" : "have"} “${state.query}”`;
      if (state.cluster === null) told.push(`in ${plural(total.clusters, "cluster")}`);
    } else {
      told.push(plural(facts.records, "record"), plural(facts.layers[state.level], "cluster"));
      told.push(`${share(total.noise, total.records)} noise`);
    }
    if (facts.points < facts.texts) told.push(`a sample of ${count(facts.texts)} texts`);
    if (facts.records_left_out) told.push(`without ${plural(facts.records_left_out, "more record")} of them`);
    $("summary").textContent = this.app.notice + told.join(", ");
  }

  clusterTime(cluster, last) {
    if (!this.times) {
      const { map } = this.app;
      this.times = map.clusters.title.map(() => [Infinity, -Infinity]);
      for (const layer of map.layers) {
        for (let i = 0; i < map.n; i++) {
          if (layer[i] < 0) continue;
          const own = this.times[layer[i]];
          for (let r = map.first[i]; r < map.first[i + 1]; r++) {
            const time = map.records.time[r];
            if (time === NO_TIME) continue;
            own[0] = Math.min(own[0], time);
            own[1] = Math.max(own[1], time);
          }
        }
      }
    }
    return this.times[cluster][last ? 1 : 0];
  }

  sorted(clusters) {
    const { state, map } = this.app;
    const order = this.order.clusters;
    const narrowed = state.isFocused || state.total.shown < map.facts.records;
    const { title, size } = map.clusters;
    const by = {
      size: (a, b) => (narrowed ? state.counts[b] - state.counts[a] : 0) || size[b] - size[a],
      title: (a, b) => title[a].localeCompare(title[b]),
      first: (a, b) => this.clusterTime(a, false) - this.clusterTime(b, false),
      last: (a, b) => this.clusterTime(b, true) - this.clusterTime(a, true),
    }[order];
    return [...clusters].sort((a, b) => by(a, b) || a - b);
  }

  drawClusters() {
    const { state, map } = this.app;
    const { title, layers } = map.clusters;
    let shown;
    if (state.query) {
      const query = parseQuery(state.query);
      const matches = (cluster) => holds(this.titles[cluster], query);
      shown = title
        .map((_, cluster) => cluster)
        .filter(
          (cluster) =>
            (layers[cluster].includes(state.level) && state.counts[cluster] > 0) ||
            (matches(cluster) && query.wanted.length),
        );
    } else {
      shown =
        state.layer === AUTO
          ? map.roots
          : title.map((_, cluster) => cluster).filter((c) => layers[c].includes(state.layer));
      shown = shown.filter((cluster) => state.counts[cluster] > 0);
    }
    const nested = state.layer === AUTO && !state.query;
    const sorted = this.sorted(shown);
    const list = make(
      "ul",
      {},
      sorted.slice(0, this.lines).map((cluster) => this.clusterItem(cluster, nested)),
    );
    if (!state.query && state.unplaced) list.append(make("li", {}, this.clusterLine(NO_CLUSTER)));
    if (!sorted.length && state.query) list.append(make("li", { class: "quiet" }, "No cluster has this."));
    $("list").replaceChildren(list, ...this.more(sorted.length));
  }

  clusterItem(cluster, nested) {
    const children = nested ? this.app.map.children[cluster].filter((child) => this.app.state.counts[child] > 0) : [];
    const open = this.unfolded.has(cluster);
    const fold_button = children.length
      ? make(
          "button",
          {
            class: "fold",
            "aria-expanded": open,
            "aria-label": `${open ? "Hide" : "Show"} the finer clusters`,
            "data-cluster": cluster,
            click: () => {
              if (!this.unfolded.delete(cluster)) this.unfolded.add(cluster);
              this.draw();
              document.querySelector(`.fold[data-cluster="${cluster}"]`)?.focus();
            },
          },
          open ? "▾" : "▸",
        )
      : nested
        ? make("span", { class: "fold" })
        : null;
    const inner = open
      ? make(
          "ul",
          {},
          this.sorted(children)
            .slice(0, PAGE)
            .map((child) => this.clusterItem(child, true)),
        )
      : null;
    return make("li", {}, make("div", { class: "item" }, fold_button, this.clusterLine(cluster)), inner);
  }

  clusterLine(cluster) {
    const { map, state, table } = this.app;
    const noise = cluster === NO_CLUSTER;
    const color = noise ? cssColor(table, NOISE) : cssColor(table, map.clusters.color[cluster]);
    const own = noise ? state.unplaced : state.counts[cluster];
    const whole = noise ? own : map.clusters.size[cluster];
    const told = own === whole ? count(whole) : `${count(own)} of ${count(whole)}`;
    const when =
      !noise && (this.order.clusters === "first" || this.order.clusters === "last")
        ? this.clusterTime(cluster, this.order.clusters === "last")
        : Infinity;
    const date = Number.isFinite(when) ? ` · ${day(state.date(when))}` : "";
    return make(
      "button",
      {
        class: `line${state.cluster === cluster ? " chosen" : ""}`,
        "data-line": cluster,
        "aria-current": state.cluster === cluster,
        click: () => this.app.pick({ cluster, fly: true }),
      },
      make("span", { class: "dot", "aria-hidden": "true", style: { background: color } }),
      said(noise ? "noise" : map.clusters.title[cluster], { class: "title" }),
      make("span", { class: "count" }, told + date),
    );
  }

  // The points of the list of texts, in its order.
  listed() {
    const { state, map } = this.app;
    const points = state.focused();
    const order = this.order.texts;
    if (order === "strength") {
      const steps = Array.from({ length: 256 }, () => []); // a million points would take long to sort
      for (const i of points) steps[255 - map.points.strength[i]].push(i);
      return steps.flat();
    }
    const time = (i) => {
      let found = null;
      for (let r = map.first[i]; r < map.first[i + 1]; r++) {
        const own = map.records.time[r];
        if (own === NO_TIME || !state.passing(r)) continue;
        if (found === null || (order === "first" ? own < found : own > found)) found = own;
      }
      return found ?? (order === "first" ? Infinity : -Infinity);
    };
    const times = new Map(points.map((i) => [i, time(i)]));
    return points.sort(
      (a, b) => (order === "first" ? times.get(a) - times.get(b) : times.get(b) - times.get(a)) || a - b,
    );
  }

  async drawTexts() {
    const { state, map } = this.app;
    const drawing = (this.drawing = {});
    const texts = await loadStrings("texts", map.n);
    if (this.drawing !== drawing || this.tab !== "texts") return;
    this.points = this.listed();
    const { wanted } = parseQuery(state.query);
    const list = make(
      "ul",
      {},
      this.points.slice(0, this.lines).map((i) => make("li", {}, this.textItem(i, texts, wanted))),
    );
    if (!this.points.length) list.append(make("li", { class: "quiet" }, "No text has this."));
    $("list").replaceChildren(list, ...this.more(this.points.length));
  }

  textItem(i, texts, wanted) {
    const { state, map } = this.app;
    const r = map.first[i];
    const facts = [];
    if (map.records.time && map.records.time[r] !== NO_TIME) facts.push(moment(state.date(map.records.time[r])));
    if (map.records.source) facts.push(state.value("source", r));
    const n = map.points.records[i];
    if (n > 1) facts.push(`${count(n)} records`);
    return make(
      "button",
      {
        class: `line${state.point === i ? " chosen" : ""}`,
        "data-point": i,
        click: () => this.app.pick({ point: i, fly: true }),
      },
      make("span", {
        class: "dot",
        "aria-hidden": "true",
        style: { background: cssColor(this.app.table, state.colors[i]) },
      }),
      make(
        "span",
        { class: "text" },
        marked(texts.get(i).slice(0, 300), wanted),
        make("span", { class: "quiet" }, " ", said(facts.filter(Boolean).join(" · "))),
      ),
    );
  }

  more(n) {
    if (n <= this.lines) return [];
    return [
      make(
        "button",
        {
          class: "more",
          click: () => {
            this.lines += 3 * PAGE;
            this.draw();
          },
        },
        `Show more (${count(n - this.lines)} left)`,
      ),
    ];
  }

  // Up and down go through the lines of the list; right and left unfold and fold.
  key(event) {
    const lines = [...$("list").querySelectorAll(".line, .more")];
    const at = lines.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && at >= 0) {
      event.preventDefault();
      lines[Math.max(0, Math.min(lines.length - 1, at + step))].focus();
    }
    const fold_button = document.activeElement.closest(".item")?.querySelector("button.fold");
    const opens = { ArrowRight: "false", ArrowLeft: "true" }[event.key];
    if (fold_button && opens === fold_button.getAttribute("aria-expanded")) {
      const { line } = document.activeElement.dataset;
      fold_button.click();
      $("list").querySelector(`[data-line="${line}"]`)?.focus();
    }
  }

  // The text before or after the one that is shown.
  step(by) {
    const points = this.points ?? this.listed();
    const at = points.indexOf(this.app.state.point);
    const next = points[at < 0 ? 0 : at + by];
    if (next !== undefined) this.app.pick({ point: next, fly: true });
  }
}
