// Some texts in; the buttons of their card out, and what these copy and save.

import { NO_TIME, loadCells, loadStrings } from "./data.js";
import { cell, copyText, download, make, plural } from "./dom.js";

// app : as of a card; name : of the file; cluster : null for other texts
export function actions(app, points, name, cluster = null) {
  const { state, map } = app;
  const has_ids = !map.facts.left_out.includes("cell-0");
  const of = map.isPartial ? ` of the ${plural(passing(app, points), "record")} here` : "";
  const copied = async (event, text) => {
    const done = await copyText(text);
    event.target.textContent = done ? "Copied" : "Not allowed here";
  };
  const link =
    cluster !== null && make("button", { click: (event) => copied(event, app.link({ cluster })) }, "Copy link");
  return make(
    "div",
    { class: "actions" },
    make("button", { click: () => app.pick({ tab: "texts" }) }, "List texts"),
    link || null,
    make(
      "button",
      {
        disabled: !has_ids,
        title: has_ids ? null : "To keep the file small it does without ids",
        click: async (event) => copied(event, (await rowsOf(app, points)).map(({ id }) => id).join("\n")),
      },
      `Copy ids${of}`,
    ),
    make("button", { click: async () => download(`${name}.csv`, await csvOf(app, points)) }, `Download CSV${of}`),
    cluster !== null && cluster >= 0 && state.layer !== map.clusters.layers[cluster][0]
      ? make("button", { click: () => app.pick({ layer: map.clusters.layers[cluster][0] }) }, "Show its layer")
      : null,
  );
}

// How many records pass the filters.
function passing({ map, state }, points) {
  let sum = 0;
  for (const i of points) for (let r = map.first[i]; r < map.first[i + 1]; r++) if (state.passing(r)) sum++;
  return sum;
}

// Of all records that pass the filters: id, null where the page has none, and cluster, time, source, own text.
async function rowsOf({ map, state }, points) {
  const ids = await loadCells(map, "text_id");
  const texts = await loadStrings("texts", map.n);
  const own = await loadStrings("own", map.facts.records);
  const found = [];
  for (const i of points) {
    const label = state.labels[i];
    const title = label < 0 ? "" : map.clusters.title[label];
    const text = texts.get(i);
    for (let r = map.first[i]; r < map.first[i + 1]; r++) {
      if (!state.passing(r)) continue;
      const time =
        map.records.time && map.records.time[r] !== NO_TIME ? state.date(map.records.time[r]).toISOString() : "";
      const source = map.records.source ? state.value("source", r) : "";
      found.push({ id: ids && ids.get(r), values: [label, title, time, source, own?.get(r) || text] });
    }
  }
  return found;
}

async function csvOf(app, points) {
  const has_ids = !app.map.facts.left_out.includes("cell-0");
  const lines = (await rowsOf(app, points)).map(({ id, values }) =>
    [...(has_ids ? [cell(id, true)] : []), ...values.map((value) => cell(value))].join(","),
  );
  return [`${has_ids ? "text_id," : ""}label,title,time,source,text`, ...lines, ""].join("\r\n");
}
