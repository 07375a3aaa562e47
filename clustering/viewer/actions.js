// Some texts in; the buttons of their card out, and what these copy and save.

import { NO_TIME, loadCells, loadStrings } from "./data.js";
import { PLAIN } from "./state.js";
import { $, cell, copyText, count, download, flash, make, plural } from "./dom.js";

const HINT_MS = 4_000;

// Visit the records of some points that are shown. isText : of one text, which may be no hit of the search
export function visitShown({ map, state }, points, isText, visit) {
  for (const i of points) {
    if (!isText && state.status[i] < PLAIN) continue;
    for (let r = map.first[i]; r < map.first[i + 1]; r++) if (state.passing(r)) visit(r, i);
  }
}

// Say something at the foot of the page for a while.
let hiding;
export function hint(words) {
  $("hint").textContent = words;
  $("hint").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => {
    $("hint").hidden = true;
  }, HINT_MS);
}

export class Actions {
  // app : as of a card; name : of the file; cluster : null for other texts; isText : of one text
  constructor(app, points, name, cluster = null, isText = false) {
    Object.assign(this, { app, points, name, cluster, isText });
    this.element = make("div", { class: "actions" });
    this.draw();
  }

  // The buttons, for what is shown now; where a search or filters hide some of the records, also for all of them.
  draw() {
    const { app, points, cluster } = this;
    const { state, map } = app;
    const all = points.reduce((sum, i) => sum + map.points.records[i], 0);
    let shown = 0;
    visitShown(app, points, this.isText, () => shown++);
    const has_focus = this.element.contains(document.activeElement);
    const layer = cluster === null || cluster < 0 || map.layers.length < 2 ? null : map.clusters.layers[cluster][0];
    const link = (event) => this.copy(event.target, async () => app.link({ cluster }), "Copied the link");
    const buttons = [
      make("button", { click: () => app.pick({ tab: "texts" }) }, "List texts"),
      cluster !== null && make("button", { click: link }, "Copy link"),
      ...(shown || !all ? this.exports(shown, false) : []),
      ...(shown < all ? this.exports(all, true) : []),
      layer !== null &&
        state.layer !== layer &&
        make(
          "button",
          { title: "Name and list the clusters that are as fine as this one", click: () => app.pick({ layer }) },
          `Show the ${plural(map.facts.layers[layer], "cluster")} as fine as this`,
        ),
    ];
    const about = [];
    if (shown < all)
      about.push(`${count(shown)} of ${plural(all, "record")} shown: search and filters hide the others.`);
    if (map.isPartial) about.push("Counted are the records in this page, not all of the run.");
    const told = about.length ? make("p", { class: "quiet" }, about.join(" ")) : null;
    this.element.replaceChildren(...[...buttons, told].filter(Boolean));
    if (has_focus) this.element.querySelector("button").focus({ preventScroll: true });
  }

  // Whether the page holds the ids of the records.
  get hasIds() {
    return !this.app.map.facts.left_out.includes("cell-0");
  }

  // Buttons for n records: those that are shown, or (`isAll`) all of them.
  exports(n, isAll) {
    const of = isAll ? `all ${count(n)}` : count(n);
    const ids = async () => (await this.rows(isAll)).map(({ id }) => id).join("\n");
    const told = plural(n, "id");
    const copy = {
      disabled: !this.hasIds || !n,
      title: this.hasIds ? null : "To keep the file small it does without ids",
      click: (event) => this.copy(event.target, ids, `Copied ${told}`),
    };
    const save = { disabled: !n, click: (event) => this.save(event.target, isAll) };
    return [
      make("button", copy, `Copy ${of} ${n === 1 ? "id" : "ids"}`),
      make("button", save, `Download CSV of ${of}`),
    ];
  }

  async copy(button, content, told) {
    const words = (await copyText(await content())) ? told : "Not allowed here";
    flash(button, words);
    hint(words);
  }

  async save(button, isAll) {
    const rows = await this.rows(isAll);
    download(`${this.name}.csv`, this.csv(rows));
    flash(button, "Saved");
    hint(`Saved ${plural(rows.length, "record")} in ${this.name}.csv`);
  }

  // Of the records: id, null where the page has none, and cluster, time, source, own text.
  async rows(isAll) {
    const { map, state } = this.app;
    const ids = await loadCells(map, "text_id");
    const texts = await loadStrings("texts", map.n);
    const own = await loadStrings("own", map.facts.records);
    const found = [];
    const add = (r, i) => {
      const label = state.labels[i];
      const title = label < 0 ? "" : map.clusters.title[label];
      const time =
        map.records.time && map.records.time[r] !== NO_TIME ? state.date(map.records.time[r]).toISOString() : "";
      const source = map.records.source ? state.value("source", r) : "";
      found.push({ id: ids && ids.get(r), values: [label, title, time, source, own?.get(r) || texts.get(i)] });
    };
    if (!isAll) visitShown(this.app, this.points, this.isText, add);
    else for (const i of this.points) for (let r = map.first[i]; r < map.first[i + 1]; r++) add(r, i);
    return found;
  }

  csv(rows) {
    const lines = rows.map(({ id, values }) =>
      [...(this.hasIds ? [cell(id, true)] : []), ...values.map((value) => cell(value))].join(","),
    );
    return [`${this.hasIds ? "text_id," : ""}label,title,time,source,text`, ...lines, ""].join("\r\n");
  }
}
