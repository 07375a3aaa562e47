// A cluster, a text or a selection in; the card that tells about it out.

import { NO_TIME, loadCells, loadNear, loadStrings } from "./data.js";
import { cssColor } from "./colors.js";
import { NO_CLUSTER, STRENGTH } from "./state.js";
import { different, topTerms } from "./terms.js";
import { Actions } from "./actions.js";
import { When, missing } from "./when.js";
import { $, count, make, moment, plural, said, share, short, webLink } from "./dom.js";

const SHOWN = 8; // sources, near clusters, records
const TEXTS = 5; // different ones, at the border
const LISTED = 200; // texts of a selection
const SAME = 200; // characters that two texts have alike where they are one, cut at different lengths

export class Card {
  // app : {map, state, view, table, pick}; pick changes what is shown
  constructor(app) {
    this.app = app;
    this.element = $("card");
    this.parts = []; // that tell of what is shown, and are drawn anew when that changes
    this.takesFocus = false; // when it opens next
  }

  close() {
    this.element.hidden = true;
    this.shown = null;
    this.parts = [];
  }

  // Take over a new search, or new filters; a cluster has other members when the noise counts with the nearest one.
  update() {
    const { cluster, home } = this.app.state;
    if (this.shown === `cluster ${cluster}` && home !== this.home) this.cluster(cluster);
    else for (const part of this.parts) part.draw();
  }

  get hasFocus() {
    return this.element.contains(document.activeElement);
  }

  focus() {
    this.element.querySelector("h2").focus({ preventScroll: true });
  }

  // title : of the card; parts : with an element, of which the first stands under the title, before the content
  open(shown, title, dot, parts, ...content) {
    this.shown = shown;
    this.parts = parts;
    const had_focus = this.hasFocus;
    const heading = make("h2", { dir: "auto", tabindex: -1 }, title);
    const close = make(
      "button",
      { "aria-label": "Close", title: "Close (Esc)", click: () => this.app.pick({ close: true }) },
      "×",
    );
    const header = make("header", {}, dot, heading, close);
    this.element.replaceChildren(header, parts[0].element, ...content.filter(Boolean));
    this.element.hidden = false;
    this.element.scrollTop = 0;
    if (had_focus || this.takesFocus) this.focus();
    this.takesFocus = false;
  }

  dot(cluster) {
    const { map, table } = this.app;
    const color = cluster < 0 ? cssColor(table, 12) : cssColor(table, map.clusters.color[cluster]);
    return make("span", { class: "dot", "aria-hidden": "true", style: { background: color } });
  }

  title(cluster) {
    return cluster === NO_CLUSTER ? "Noise: texts that fit no cluster" : this.app.map.clusters.title[cluster];
  }

  clusterLine(cluster, told) {
    return make(
      "button",
      { class: "line", click: () => this.app.pick({ cluster, fly: true }) },
      this.dot(cluster),
      said(this.title(cluster), { class: "title" }),
      make("span", { class: "count" }, told),
    );
  }

  textLine(i, text, told = "") {
    return make(
      "button",
      { class: "line", click: () => this.app.pick({ point: i, fly: true }) },
      said(text),
      make("span", { class: "count" }, told),
    );
  }

  // Records of the run in no cluster of the layer. counted : those of the page
  noiseSize(counted) {
    const { map, state } = this.app;
    if (!map.isPartial || (state.home && state.level <= map.facts.chosen)) return counted;
    const { size, layers } = map.clusters;
    return map.facts.run_records - size.reduce((sum, n, own) => sum + (layers[own].includes(state.level) ? n : 0), 0);
  }

  async cluster(cluster) {
    const { map, state } = this.app;
    const { clusters, facts } = map;
    const shown = `cluster ${cluster}`;
    this.home = state.home;
    const points = state.members(cluster);
    const records = points.reduce((sum, i) => sum + map.points.records[i], 0);
    const { sizes } = state;
    const size = cluster < 0 ? this.noiseSize(records) : sizes[cluster];
    const told = [`${plural(size, "record")}, ${share(size, facts.run_records)} of all`];
    const distinct = state.home ? size : clusters.texts[cluster]; // unknown where noise counts, too
    if (cluster >= 0 && distinct !== size) told.push(plural(distinct, "different text"));
    const body = [make("p", { class: "quiet" }, told.join("; ")), this.lacks()];
    const parent = clusters.parent[cluster];
    if (parent >= 0) body.push(make("h3", {}, "Part of"), this.clusterLine(parent, count(sizes[parent])));
    const when = new When(this.app, points);
    body.push(when.element);
    const whose = this.app.map.isPartial ? "Sources, of the records here" : "Sources";
    if (map.records.source) body.push(make("h3", {}, whose), this.sources(points));
    if (cluster >= 0 && clusters.terms[cluster].length) {
      body.push(
        make("h3", {}, "Terms"),
        make(
          "div",
          { class: "chips" },
          clusters.terms[cluster].map((term) =>
            make(
              "button",
              { dir: "auto", click: () => this.app.pick({ query: term.includes(" ") ? `"${term}"` : term }) },
              term,
            ),
          ),
        ),
      );
    }
    const slots = Object.fromEntries(["exemplars", "border", "near"].map((name) => [name, make("div")]));
    body.push(...Object.values(slots));
    const children = cluster < 0 ? [] : map.children[cluster];
    if (children.length) {
      body.push(make("h3", {}, `Finer clusters in it (${count(children.length)})`));
      body.push(...children.slice(0, SHOWN).map((child) => this.clusterLine(child, count(sizes[child]))));
    }
    const buttons = new Actions(this.app, points, `cluster-${cluster}`, cluster);
    this.open(shown, this.title(cluster), this.dot(cluster), [buttons, when], ...body);

    const texts = await loadStrings("texts", map.n);
    const exemplars = cluster >= 0 && (await loadStrings("exemplars", clusters.title.length));
    if (this.shown !== shown) return;
    const by_strength = [...points].sort((a, b) => map.points.strength[a] - map.points.strength[b] || a - b);
    const told_texts = exemplars ? exemplars.get(cluster).split("\x1e").filter(Boolean) : [];
    if (told_texts.length) {
      slots.exemplars.append(
        make("h3", {}, "Texts that stand for it"),
        ...this.standing(told_texts, by_strength.toReversed(), texts),
      );
    }
    const border = different(by_strength, texts, TEXTS);
    if (cluster >= 0 && points.length > TEXTS) {
      slots.border.append(make("h3", {}, "Texts at its border"), ...border.map((i) => this.textLine(i, texts.get(i))));
    } else if (border.length) {
      slots.border.append(make("h3", {}, "Texts"), ...border.map((i) => this.textLine(i, texts.get(i))));
    }
    const near = cluster >= 0 ? await this.nearClusters(cluster, points) : [];
    if (this.shown !== shown || !near.length) return;
    slots.near.append(
      make("h3", {}, "Near clusters"),
      ...near.map((other) => this.clusterLine(other, count(sizes[other]))),
    );
  }

  // What the run has no column of, for people who look for it; null where it has all.
  lacks() {
    const told = missing(this.app.map);
    return told ? make("p", { class: "quiet" }, told) : null;
  }

  // A line for each text that stands for a cluster; one that the page holds is opened by it.
  // points : of the cluster, the strongest ones first, which are the likely ones
  standing(told, points, texts) {
    const start = (text) => text.slice(0, SAME);
    const wanted = new Map(told.map((text) => [start(text), -1]));
    let left = wanted.size;
    for (const i of points) {
      if (!left) break;
      const own = start(texts.get(i));
      if (wanted.get(own) !== -1) continue;
      wanted.set(own, i);
      left -= 1;
    }
    return told.map((text) => {
      const i = wanted.get(start(text));
      const about = { class: "line", title: "This page holds a sample, without this text" };
      return i < 0 ? make("p", about, said(text)) : this.textLine(i, text);
    });
  }

  // The clusters of the same layer that hold most of the nearest texts of the members, else the next ones on the map.
  async nearClusters(cluster, points) {
    const { map, state } = this.app;
    const layer = state.layers[map.clusters.layers[cluster][0]];
    const found = new Map();
    const lists = await loadNear(map.n);
    for (const i of lists ? points : []) {
      for (const other of lists.near.subarray(i * lists.per, (i + 1) * lists.per)) {
        const label = other < 0 ? -1 : layer[other];
        if (label >= 0 && label !== cluster) found.set(label, (found.get(label) ?? 0) + 1);
      }
    }
    const { box, layers } = map.clusters;
    if (!found.size) {
      const distance = (other) => Math.hypot(box[other][1] - box[cluster][1], box[other][4] - box[cluster][4]);
      layers.forEach((own, other) => {
        if (other !== cluster && own.includes(layers[cluster][0])) found.set(other, -distance(other));
      });
    }
    return [...found]
      .sort((a, b) => b[1] - a[1] || a[0] - b[0])
      .slice(0, TEXTS)
      .map(([other]) => other);
  }

  sources(points) {
    const { map, state } = this.app;
    const counts = new Map();
    for (const i of points) {
      for (let r = map.first[i]; r < map.first[i + 1]; r++) {
        const source = map.records.source[r];
        counts.set(source, (counts.get(source) ?? 0) + 1);
      }
    }
    const ranked = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    const most = ranked.length ? ranked[0][1] : 1;
    const lines = ranked.slice(0, SHOWN).map(([source, n]) => {
      const name = map.columns.source.values[source] ?? "(none)";
      return make(
        "button",
        {
          class: "share",
          title: "Show only this source",
          click: () => state.set({ values: { ...state.values, source } }),
        },
        said(name),
        make("i", { style: { width: `${Math.max(2, (90 * n) / most)}px` } }),
        make("span", {}, count(n)),
      );
    });
    if (ranked.length > SHOWN) lines.push(make("p", { class: "quiet" }, `and ${count(ranked.length - SHOWN)} more`));
    return make("div", {}, lines);
  }

  // onOpen : is called once the card is there
  async text(i, onOpen = () => {}) {
    const { map, state } = this.app;
    const shown = `text ${i}`;
    const texts = await loadStrings("texts", map.n);
    const body = [make("p", { class: "whole", dir: "auto" }, texts.get(i)), this.lacks()];
    const path = [...new Set(map.layers.map((layer) => layer[i]))].filter((cluster) => cluster >= 0);
    if (map.points.home[i] !== map.layers[map.facts.chosen][i] && map.points.home[i] >= 0) {
      body.push(make("h3", {}, "Noise; the cluster nearest to it"), this.clusterLine(map.points.home[i], ""));
    }
    if (path.length)
      body.push(
        make("h3", {}, "In"),
        ...path.map((cluster) => this.clusterLine(cluster, count(this.app.state.sizes[cluster]))),
      );
    const slots = [make("div"), make("div")];
    const buttons = new Actions(this.app, [i], "text", null, true);
    this.open(shown, "Text", this.dot(state.labels[i]), [buttons], ...body, ...slots);
    onOpen();
    const names = [
      "text_id",
      ...map.facts.columns.filter(({ kind }) => kind === "link" || kind === "text").map(({ name }) => name),
    ];
    const strings = await Promise.all(names.map((name) => loadCells(map, name)));
    const own = await loadStrings("own", map.facts.records);
    const lists = await loadNear(map.n);
    if (this.shown !== shown) return;
    slots[0].append(...this.recordTables(i, names, strings, own));
    const near = lists
      ? [...lists.near.subarray(i * lists.per, (i + 1) * lists.per)].filter((other) => other >= 0)
      : [];
    if (near.length)
      slots[1].append(make("h3", {}, "Nearest texts"), ...near.map((other) => this.textLine(other, texts.get(other))));
  }

  // What is known of each record of a text. own : the texts of those that have another one
  recordTables(i, names, strings, own) {
    const { map, state } = this.app;
    const [from, to] = [map.first[i], map.first[i + 1]];
    const copies = this.app.copies(i);
    const found = [make("h3", {}, copies > 1 ? `${plural(copies, "record")} of it` : "Record")];
    for (let r = from; r < Math.min(to, from + SHOWN); r++) {
      const rows = [];
      const row = (name, ...value) => rows.push(make("tr", {}, make("th", {}, name), make("td", {}, ...value)));
      names.forEach((name, column) => {
        const value = strings[column] ? strings[column].get(r) : "";
        if (!value) return;
        const link = map.columns[name]?.kind === "link" && webLink(value);
        const told = short(value); // copies and links have the whole
        row(name, link ? make("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, told) : said(told));
      });
      if (own && !own.isEmpty(r)) row("its text", said(own.get(r)));
      if (map.records.time && map.records.time[r] !== NO_TIME) row("time", moment(state.date(map.records.time[r])));
      for (const { name, kind } of map.facts.columns) {
        if (kind === "category" && state.value(name, r)) row(name, said(state.value(name, r)));
      }
      if (r === from) {
        row("strength", (map.points.strength[i] / 255).toFixed(2));
        rows.at(-1).title = STRENGTH;
      }
      found.push(make("table", {}, rows));
    }
    const shown = Math.min(to - from, SHOWN);
    if (copies > shown) found.push(make("p", { class: "quiet" }, `and ${count(copies - shown)} more`));
    return found;
  }

  async selection(points) {
    const { map } = this.app;
    const shown = "selection";
    const records = points.reduce((sum, i) => sum + this.app.state.weight[i], 0);
    const slots = [make("div"), make("div")];
    const buttons = new Actions(this.app, points, "selection");
    this.open(shown, `${plural(records, "record")} selected`, null, [buttons], ...slots);
    const texts = await loadStrings("texts", map.n);
    const terms = topTerms(points, texts, map.n);
    if (this.shown !== shown) return;
    if (terms.length) {
      slots[0].append(
        make("h3", {}, "Terms"),
        make(
          "div",
          { class: "chips" },
          terms.map((term) => make("button", { dir: "auto", click: () => this.app.pick({ query: term }) }, term)),
        ),
      );
    }
    slots[1].append(make("h3", {}, "Texts"), ...points.slice(0, LISTED).map((i) => this.textLine(i, texts.get(i))));
    if (points.length > LISTED)
      slots[1].append(make("p", { class: "quiet" }, `and ${count(points.length - LISTED)} more: see the list`));
  }
}
