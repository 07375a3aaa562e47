// State in; the lists of clusters and texts and the summary beside the map out.

import { NO_TIME, loadStrings } from "./data.js";
import { cssColor } from "./colors.js";
import { parseQuery } from "./search.js";
import { Filters } from "./filters.js";
import { ClusterList } from "./cluster_list.js";
import { NO_CLUSTER, STRENGTH } from "./state.js";
import { $, count, make, marked, moment, plural, said, share, short } from "./dom.js";

const PAGE = 100; // lines, before more are asked for
const TOLD = 30; // characters of a search in the summary

const CLUSTER_ORDERS = { size: "size", title: "title", first: "first seen", last: "last seen" };
const TEXT_ORDERS = { strength: "strength", first: "oldest first", last: "newest first" };

export class Panel {
  constructor(app) {
    this.app = app;
    this.tab = "clusters";
    this.order = { clusters: "size", texts: "strength" };
    this.lines = PAGE;
    for (const tab of ["clusters", "texts"]) $(`tab-${tab}`).addEventListener("click", () => this.show(tab));
    $("sort").addEventListener("change", (event) => {
      this.order[this.tab] = event.target.value;
      this.lines = PAGE;
      this.draw();
    });
    $("all").addEventListener("click", () => app.pick({ close: true }));
    $("list").addEventListener("keydown", (event) => this.key(event));
    $("list").addEventListener("focusin", (event) => this.stopAt(event.target));
    this.clusters = new ClusterList(app, this);
    this.filters = new Filters(app);
    const { facts } = app.map;
    const held = [];
    if (facts.points < facts.texts) held.push(`a sample of ${count(facts.texts)} texts`);
    if (facts.records_left_out) held.push(`without ${plural(facts.records_left_out, "more record")} of them`);
    $("sample").textContent = held.join(", ");
    $("sample").hidden = !held.length;
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
    $("sort").parentElement.hidden = usable.length < 2;
    $("sort").title = this.tab === "texts" ? `The order of the texts. ${STRENGTH}` : "The order of the clusters";
    this.filters.draw();
    this.clusters.find();
    this.summarize();
    const choice = this.tab === "clusters" ? state.cluster : state.point;
    const isNew = choice !== null && this.choice !== choice;
    this.choice = choice;
    if (this.tab === "texts") {
      this.drawn = this.drawTexts(isNew);
      return;
    }
    if (isNew) this.clusters.reveal(choice);
    this.drawn = this.fill([this.clusters.draw()], isNew);
  }

  // How many records have what is asked; of these, how many are in the open cluster or the selection.
  summarize() {
    const { state, map } = this.app;
    const { total } = state;
    const { facts } = map;
    const narrowed = Boolean(state.query) || total.found < facts.records;
    const within = state.cluster !== null || state.selection !== null;
    const told = [plural(facts.records, "record")];
    if (narrowed) told[0] = `${count(total.found)} of ${told[0]}`;
    if (state.query) told[0] += ` ${total.found === 1 ? "has" : "have"} “${short(state.query, TOLD)}”`;
    if (state.cluster !== null) {
      told.push(`${count(total.records)} in the ${state.cluster === NO_CLUSTER ? "noise" : "open cluster"}`);
    } else if (state.selection) {
      told.push(`${count(total.records)} in the selection`);
    } else if (narrowed) {
      told.push(`in ${this.clusters.told}`);
    } else {
      told.push(plural(facts.layers[state.level], "cluster"), `${share(total.noise, total.records)} noise`);
    }
    $("summary").textContent = this.app.notice + told.join(", ");
    $("all").disabled = !within; // it keeps its place
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

  async drawTexts(isNew) {
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
    this.fill([list, this.more(this.points.length)], isNew);
  }

  // Put the lines into the list; what had the focus has it again. isNew : another one is chosen, and scrolled to
  fill(content, isNew) {
    const list = $("list");
    const held = list.contains(document.activeElement) && document.activeElement.closest("button");
    const { line, point, cluster } = held ? held.dataset : {};
    const same =
      line !== undefined
        ? `[data-line="${line}"]`
        : point !== undefined
          ? `[data-point="${point}"]`
          : cluster !== undefined
            ? `.fold[data-cluster="${cluster}"]`
            : ".more";
    list.replaceChildren(...content.filter(Boolean));
    for (const button of list.querySelectorAll("button")) button.tabIndex = -1;
    const chosen = list.querySelector(".chosen");
    const first = chosen ?? list.querySelector(".line");
    if (first) first.tabIndex = 0;
    if (held) (list.querySelector(same) ?? first)?.focus({ preventScroll: true });
    if (isNew) chosen?.scrollIntoView({ block: "nearest" });
  }

  // One line of the list is reached with Tab: the one that had the focus last. Arrow keys go to the others.
  stopAt(button) {
    if (!button.matches(".line, .more")) return;
    for (const other of $("list").querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    button.tabIndex = 0;
  }

  // Focus the line of what was open, else the first one. Whether there is one.
  focus({ cluster = null, point = null } = {}) {
    const lines = `[data-line="${cluster}"], [data-point="${point}"]`;
    const found = $("list").querySelector(lines) ?? $("list").querySelector(".line");
    found?.focus();
    return Boolean(found);
  }

  // Open the first line, once it is there.
  async openFirst() {
    await this.drawn;
    $("list").querySelector(".line")?.click();
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
        click: (event) => this.app.pick({ point: i, fly: true, byKey: event.detail === 0 }),
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

  // A button for the other lines of n, or null where there are none.
  more(n) {
    if (n <= this.lines) return null;
    const click = () => {
      this.lines += 3 * PAGE;
      this.draw();
    };
    return make("button", { class: "more", click }, `Show more (${count(n - this.lines)} left)`);
  }

  // Up and down go through the lines of the list, Home and End to its ends; right and left unfold and fold.
  key(event) {
    const lines = [...$("list").querySelectorAll(".line, .more")];
    const at = lines.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: lines.length - 1 }[event.key];
    if (to !== undefined && at >= 0) {
      event.preventDefault();
      lines[Math.max(0, Math.min(lines.length - 1, to))].focus();
    }
    const fold_button = document.activeElement.closest(".item")?.querySelector("button.fold");
    const opens = { ArrowRight: "false", ArrowLeft: "true" }[event.key];
    if (fold_button && opens === fold_button.getAttribute("aria-expanded")) {
      event.preventDefault();
      fold_button.click();
    }
  }

  // The text before or after the one that is shown.
  step(by) {
    const points = this.tab === "texts" && this.points ? this.points : this.listed();
    const at = points.indexOf(this.app.state.point);
    const next = points[at < 0 ? 0 : at + by];
    if (next !== undefined) this.app.pick({ point: next, fly: true });
  }
}
