// The mouse on the map in; a box with the text that it is on out.

import { NO_TIME, loadStrings } from "./data.js";
import { $, day, make, plural, said } from "./dom.js";

const HOVER_CHARACTERS = 300;

export class Hover {
  // app : {map, state, names, view, pointAt, copies}
  constructor(app) {
    this.app = app;
  }

  // place : on the map, null where the mouse has left it
  async move(place, event) {
    const { map, names, view } = this.app;
    const box = $("hover");
    const hovering = (this.hovering = {});
    const named = place && names.hit(...place);
    const point = place && named === null && !view.drawing ? this.app.pointAt(place) : -1;
    $("names").classList.toggle("pointing", point >= 0 || (named !== null && Boolean(place)));
    if (point === null || point < 0) {
      box.hidden = true;
      return;
    }
    const texts = await loadStrings("texts", map.n);
    if (this.hovering !== hovering) return;
    const text = texts.get(point);
    const cut = text.length > HOVER_CHARACTERS ? `${text.slice(0, HOVER_CHARACTERS)}…` : text;
    box.replaceChildren(
      make("div", { class: "text", dir: "auto" }, cut),
      make("div", { class: "quiet" }, said(this.facts(point))),
    );
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    box.style.left = `${Math.max(4, Math.min(event.clientX + 14, window.innerWidth - width - 6))}px`;
    const below = event.clientY + 16;
    box.style.top = `${below + height > window.innerHeight ? Math.max(4, event.clientY - height - 12) : below}px`;
  }

  // The line under a text.
  facts(i) {
    const { map, state } = this.app;
    const label = state.labels[i];
    const title = (cluster) => (cluster < 0 ? "noise" : map.clusters.title[cluster]);
    const known = {
      title: () => title(label),
      label: () => `cluster ${label < 0 ? "noise" : label}`,
      home: () => `home ${title(map.points.home[i])}`,
      strength: () => `strength ${(map.points.strength[i] / 255).toFixed(2)}`,
      outlier_score: () => `outlier score ${(map.points.outlier_score[i] / 255).toFixed(2)}`,
      copies: () => plural(this.app.copies(i), "record"),
      row: () => `row ${map.points.row[i]}`,
    };
    const told = map.facts.hover.map((name) => known[name]());
    const r = map.first[i];
    if (map.records.source) told.push(state.value("source", r));
    if (map.records.time && map.records.time[r] !== NO_TIME) told.push(day(state.date(map.records.time[r])));
    return told.filter(Boolean).join(" · ");
  }
}
