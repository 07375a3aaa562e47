// Some texts in; when they were written, and which came first, out.

import { NO_TIME, fold, loadStrings } from "./data.js";
import { parseQuery, holds } from "./search.js";
import { countTimes } from "./time.js";
import { visitShown } from "./actions.js";
import { day, make, moment, prepared, said, short, styleOf } from "./dom.js";

const SAID = 30; // characters of a search
const TIMELINE = 60; // bars

// What a page lacks that people look for, or "".
export function missing({ columns, records }) {
  const lacks = [!columns.time && "dates", !records.source && "sources"].filter(Boolean);
  return lacks.length ? `No ${lacks.join(" and no ")} in this run.` : "";
}

export class When {
  // app : as of a card; points : of a cluster
  constructor(app, points) {
    Object.assign(this, { app, points });
    this.dated = this.collect();
    this.element = make("div");
    if (!this.dated.length) return;
    const [first, last] = [this.dated[0], this.dated.at(-1)];
    const dates = [first, last].map(([r]) => day(this.date(r)));
    const about = { class: "timeline", role: "img", "aria-label": `Records from ${dates[0]} to ${dates[1]}` };
    const canvas = make("canvas", about);
    this.found = make("div");
    this.element.append(
      make("h3", {}, app.map.isPartial ? "When, in the records here" : "When"),
      this.line("First", first),
      this.found,
      this.line("Last", last),
      canvas,
    );
    requestAnimationFrame(() => this.drawTimeline(canvas));
    this.draw();
  }

  date(r) {
    return this.app.state.date(this.app.map.records.time[r]);
  }

  // Earliest first: the records that have a time.
  collect() {
    const { map } = this.app;
    const found = [];
    if (!map.records.time) return found;
    for (const i of this.points)
      for (let r = map.first[i]; r < map.first[i + 1]; r++) if (map.records.time[r] !== NO_TIME) found.push([r, i]);
    return found.sort((a, b) => map.records.time[a[0]] - map.records.time[b[0]] || a[0] - b[0]);
  }

  // A line that opens the text of a record.
  line(what, [r, i]) {
    const { map, state } = this.app;
    const by = map.records.source && state.value("source", r);
    return make(
      "button",
      { class: "line", title: "Open this text", click: () => this.app.pick({ point: i, fly: true }) },
      make("span", { class: "text" }, what, ` ${moment(this.date(r))}${by ? ", by " : ""}`, by ? said(by) : null),
    );
  }

  // What came first of the records that are shown, where a search or filters hide the first one.
  async draw() {
    if (!this.dated.length) return;
    const { map, state } = this.app;
    const { query } = state;
    const drawing = (this.drawing = {});
    const shown = new Set();
    visitShown(this.app, this.points, false, (r) => shown.add(r));
    const texts = query ? await loadStrings("texts", map.n) : null;
    const own = query ? await loadStrings("own", map.facts.records) : null;
    if (this.drawing !== drawing) return;
    const asked = parseQuery(query);
    const has = ([r, i]) => shown.has(r) && (!query || holds(fold(own?.get(r) || texts.get(i)), asked));
    const first = query || this.dated.some(([r]) => !shown.has(r)) ? this.dated.find(has) : null;
    const what = query ? make("span", {}, "“", said(short(query, SAID)), "” first") : "First of those shown";
    this.found.replaceChildren(...(first ? [this.line(what, first)] : []));
  }

  drawTimeline(canvas) {
    if (!canvas.isConnected) return;
    const { context, width, height } = prepared(canvas);
    const bars = countTimes(this.app.state, this.points, TIMELINE, this.app.state.timeRange());
    const largest = Math.max(1, ...bars);
    context.fillStyle = styleOf("--line");
    context.fillRect(0, height - 1, width, 1);
    context.fillStyle = styleOf("--bar");
    bars.forEach((n, b) => {
      const tall = (n * (height - 2)) / largest;
      context.fillRect((b * width) / TIMELINE, height - 1 - tall, width / TIMELINE - 1, tall);
    });
  }
}
