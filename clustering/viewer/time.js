// Times of records in; a histogram with a brush that filters, out.

import { NO_TIME } from "./data.js";
import { LIT, PLAIN } from "./state.js";
import { $, count, day, prepared, styleOf } from "./dom.js";

const BARS = 60;

// Records in each of some bars between two times. points : whose records count; null for all that are shown
export function countTimes(state, points, bars, [low, high]) {
  const { map } = state;
  const found = new Uint32Array(bars);
  const per = (high - low + 1) / bars;
  const add = (i) => {
    for (let r = map.first[i]; r < map.first[i + 1]; r++) {
      const time = map.records.time[r];
      if (time !== NO_TIME && time >= low && time <= high) found[Math.floor((time - low) / per)]++;
    }
  };
  if (points) points.forEach(add);
  else for (let i = 0; i < map.n; i++) add(i);
  return found;
}

export class TimeBrush {
  constructor(state) {
    this.state = state;
    this.canvas = $("histogram");
    if (!state.map.records.time || !state.map.columns.time) return;
    $("time").hidden = false;
    this.range = state.timeRange();
    this.all = countTimes(state, null, BARS, this.range);
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.began = event.clientX;
      this.brush = null;
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (this.began === undefined) return;
      this.brush = Math.abs(event.clientX - this.began) < 3 ? null : this.barsBetween(this.began, event.clientX);
      this.draw();
    });
    this.canvas.addEventListener("pointerup", () => {
      this.began = undefined;
      state.set({ time: this.brush ?? null });
    });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    for (const id of ["from", "to"]) $(id).addEventListener("change", () => this.fromDates());
  }

  // The times of all bars that lie between two places on the screen.
  barsBetween(...places) {
    const { left, width } = this.canvas.getBoundingClientRect();
    const bars = places.map((x) => Math.min(BARS - 1, Math.max(0, Math.floor(((x - left) / width) * BARS))));
    const per = (this.range[1] - this.range[0] + 1) / BARS;
    return [
      Math.ceil(this.range[0] + Math.min(...bars) * per),
      Math.ceil(this.range[0] + (Math.max(...bars) + 1) * per) - 1,
    ];
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step && event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    const bar = (this.range[1] - this.range[0]) / BARS;
    let [low, high] = this.state.time ?? [this.range[0], this.range[0] + 6 * bar];
    if (this.state.time)
      [low, high] = event.shiftKey ? [low, high + step * bar] : [low + step * bar, high + step * bar];
    this.state.set({ time: event.key === "Escape" ? null : [Math.round(low), Math.round(high)] });
  }

  fromDates() {
    const { state } = this;
    const [from, to] = ["from", "to"].map((id) => Date.parse($(id).value));
    const day_ms = 86_400_000;
    const time = [
      Number.isNaN(from) ? 0 : state.steps(from),
      Number.isNaN(to) ? NO_TIME - 1 : state.steps(to + day_ms) - 1,
    ];
    state.set({ time: Number.isNaN(from) && Number.isNaN(to) ? null : time });
  }

  draw() {
    if (!this.range) return;
    const { state, range } = this;
    const { context, width, height } = prepared(this.canvas);
    const own = this.counts();
    const largest = Math.max(1, ...this.all);
    const floor = height - 12;
    const bar = width / BARS;
    for (const [values, color] of [
      [this.all, styleOf("--line")],
      [own, styleOf("--bar")],
    ]) {
      context.fillStyle = color;
      values.forEach((value, b) => {
        const tall = value ? Math.max(1, (floor * value) / largest) : 0;
        context.fillRect(b * bar, floor - tall, bar - 1, tall);
      });
    }
    const brush = this.began === undefined ? state.time : this.brush;
    if (brush) {
      const at = (time) =>
        ((Math.min(Math.max(time, range[0]), range[1]) - range[0]) / (range[1] - range[0] || 1)) * width;
      context.fillStyle = styleOf("--accent");
      context.globalAlpha = 0.16;
      context.fillRect(at(brush[0]), 0, Math.max(2, at(brush[1]) - at(brush[0])), floor);
      context.globalAlpha = 1;
    }
    context.fillStyle = styleOf("--quiet");
    context.font = "10px system-ui, sans-serif";
    context.textBaseline = "bottom";
    context.fillText(day(state.date(range[0])), 0, height);
    context.textAlign = "right";
    context.fillText(day(state.date(range[1])), width, height);
    const dates = brush ? brush.map((time) => day(state.date(Math.min(Math.max(time, range[0]), range[1])))) : ["", ""];
    if (document.activeElement !== $("from")) $("from").value = dates[0];
    if (document.activeElement !== $("to")) $("to").value = dates[1];
    this.canvas.setAttribute(
      "aria-label",
      `Records over time${brush ? `, only ${dates[0]} to ${dates[1]}` : ""}; ` +
        `${count(own.reduce((a, b) => a + b, 0))} in view. Drag, or use the arrow keys, to choose a time.`,
    );
  }

  // The records in focus, also those outside the brush, so that it can be moved to them.
  counts() {
    const { state } = this;
    const least = state.isFocused ? LIT : PLAIN;
    const points = [];
    for (let i = 0; i < state.map.n; i++) if (state.status[i] >= least) points.push(i);
    return countTimes(state, points, BARS, this.range);
  }
}
