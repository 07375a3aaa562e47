// The choice of a color in; what the colors of the map mean, in its corner, out.

import { RAMP, RAMP_STEPS, cssColor } from "./colors.js";
import { COLUMN } from "./state.js";
import { $, count, day, make, said } from "./dom.js";

const NAMED = 10; // values of a column that have a color of their own

// table : of ``colorTable``
export function drawLegend(state, table) {
  const legend = $("legend");
  legend.hidden = state.color === "cluster";
  if (legend.hidden) return;
  if (state.color === "time" || state.color === "strength") {
    const ends = state.color === "time" ? state.timeRange().map((time) => day(state.date(time))) : ["0", "1"];
    const stops = [0, 16, 32, 48, 63].map((step) => cssColor(table, RAMP + Math.min(step, RAMP_STEPS - 1)));
    const ramp = make("div", { class: "ramp" });
    ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const [least, most] = [make("span", {}, ends[0]), make("span", { style: { textAlign: "right" } }, ends[1])];
    legend.replaceChildren(make("div", {}, state.color), ramp, make("div", { class: "row" }, least, most));
    return;
  }
  const name = state.color.slice(COLUMN.length);
  const { values } = state.map.columns[name];
  const line = (value, code) => {
    const dot = make("span", { class: "dot", style: { background: cssColor(table, code), flex: "none" } });
    return make("div", { class: "row" }, dot, said(value));
  };
  const rest = values.length - NAMED;
  legend.replaceChildren(
    make("div", {}, said(name)),
    ...values.slice(0, NAMED).map(line),
    rest > 0 ? make("div", { class: "quiet" }, `and ${count(rest)} more in grey`) : "",
  );
}
