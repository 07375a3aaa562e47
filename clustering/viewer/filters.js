// State in; the fields above the lists out: which names and colors the map has, and which records are shown.

import { isAsked, parseNumber } from "./columns.js";
import { NO_VALUE } from "./data.js";
import { AUTO, COLUMN, STRENGTH } from "./state.js";
import { missing } from "./when.js";
import { $, make, plural, said } from "./dom.js";

const OPTIONS = 500; // values that a filter offers before somebody types

// What a filter calls records without a value: no value of the column.
function nameless(values) {
  let name = "(none)";
  while (values.includes(name)) name = `(${name})`;
  return name;
}

export class Filters {
  constructor(app) {
    this.app = app;
    const { map, state } = app;
    const { facts } = map;
    $("title").textContent = facts.name;
    $("layer").append(
      make("option", { value: AUTO }, "by zoom"),
      ...facts.layers.map((n, layer) =>
        make("option", { value: layer }, plural(n, "cluster") + (layer === facts.chosen ? ", the run's labels" : "")),
      ),
    );
    $("layer").addEventListener("change", (event) => state.set({ layer: Number(event.target.value), cluster: null }));
    const own = ["cluster", ...(map.columns.time ? ["time"] : []), "strength"];
    const columns = facts.columns.filter(({ kind }) => kind === "category").map(({ name }) => name);
    $("color").append(
      ...own.map((name) => make("option", { value: name }, name)),
      ...columns.map((name) => make("option", { value: COLUMN + name }, own.includes(name) ? COLUMN + name : name)),
    );
    $("color").addEventListener("change", (event) => state.set({ color: event.target.value }));
    const check = (name, label, title) => {
      const box = make("input", {
        type: "checkbox",
        id: name,
        change: (event) => state.set({ [name]: event.target.checked }),
      });
      return make("label", { title }, box, label);
    };
    const strength = make("input", {
      type: "range",
      id: "strength",
      min: 0,
      max: 255,
      value: 0,
      input: (event) => state.set({ strength: Number(event.target.value) }),
    });
    const rows = [
      check("noise", "show noise", "Noise: texts that fit no cluster"),
      check("home", "count noise with its nearest cluster", "A text that fits no cluster counts with the nearest"),
      make("label", { title: STRENGTH }, "strength at least", strength, make("output", { id: "strength-told" })),
    ];
    if (missing(map)) rows.push(make("p", { class: "quiet" }, missing(map)));
    for (const column of facts.columns) {
      const { name, kind, values, least } = column;
      if (isAsked(map, column)) rows.push(least === undefined ? this.wordFilter(name) : this.rangeFilter(column));
      else if (kind === "category") rows.push(this.valueFilter(name, values));
    }
    rows.push(make("button", { id: "clear", click: () => this.app.pick({ clear: true }) }, "Clear all filters"));
    $("filter-rows").append(...rows);
  }

  // A field that takes one of many values: a list to choose from as one types.
  valueFilter(name, values) {
    const { state } = this.app;
    const some = this.app.map.records[name].includes(NO_VALUE) ? [nameless(values)] : [];
    const list = make(
      "datalist",
      { id: `values-${name}` },
      [...some, ...values.slice(0, OPTIONS)].map((value) => make("option", { value })),
    );
    const input = make("input", {
      id: `only-${name}`,
      list: `values-${name}`,
      placeholder: "all",
      "data-column": name,
      change: (event) => {
        const { value } = event.target;
        const code = some.includes(value) ? NO_VALUE : values.indexOf(value);
        const { [name]: _, ...others } = state.values;
        event.target.setCustomValidity(value && code < 0 ? "No record has this value" : "");
        event.target.reportValidity();
        state.set({ values: code < 0 ? others : { ...others, [name]: code } });
      },
    });
    return make("label", {}, said(name), input, list);
  }

  // What is asked of a column, and of the others as before; nothing: all will do.
  ask(name, asked) {
    const { [name]: _, ...others } = this.app.wanted;
    this.app.ask(asked ? { ...others, [name]: asked } : others);
  }

  // A field that takes words of a column whose values are many.
  wordFilter(name) {
    const change = ({ target }) => this.ask(name, target.value.trim() ? { words: target.value.trim() } : null);
    const input = make("input", { id: `has-${name}`, placeholder: "has words", "data-words": name, change });
    return make("label", {}, said(name), input);
  }

  // Two fields that take the least and the most of a column of numbers.
  rangeFilter({ name, least, most }) {
    const fields = { least, most };
    const change = () => {
      const [low, high] = Object.values(fields).map(({ value }) => parseNumber(value));
      this.ask(name, low === null && high === null ? null : { least: low, most: high });
    };
    for (const [end, value] of Object.entries(fields)) {
      fields[end] = make("input", {
        id: `${end}-${name}`, type: "number", step: "any", placeholder: value, "aria-label": `${end} of ${name}`,
        "data-range": name, "data-end": end, change,
      });
    }
    const about = { class: "range", role: "group", "aria-label": name };
    return make("div", about, said(name), fields.least, "to", fields.most);
  }

  draw() {
    const { state, map } = this.app;
    $("layer").value = state.layer;
    $("color").value = state.color;
    $("noise").checked = state.noise;
    $("home").checked = state.home;
    $("strength").value = state.strength;
    $("strength-told").textContent = (state.strength / 255).toFixed(2);
    for (const input of document.querySelectorAll("#filters [data-column]")) {
      const { column } = input.dataset;
      if (document.activeElement === input) continue;
      const [code, { values }] = [state.values[column], map.columns[column]];
      input.value = code === NO_VALUE ? nameless(values) : (values[code] ?? "");
    }
    for (const input of document.querySelectorAll("#filters [data-words], #filters [data-range]")) {
      const { words, range, end } = input.dataset;
      if (document.activeElement !== input) input.value = state.found[words ?? range]?.asked[end ?? "words"] ?? "";
    }
    const chosen = Object.keys(state.values).length + Object.keys(state.found).length;
    const active = chosen + (state.strength > 0) + !state.noise + state.home;
    $("filtered").hidden = !active;
    $("filtered").textContent = active;
  }
}
