// The table of all clusters: nested by layer, sorted, searched, and a page at a time.

import { unpack, fold } from "./data.js";
import { $, make, said, marked, count, share, plural, moment, copyText, cell, download } from "./dom.js";

const PAGE = 50; // clusters of a page
const TREE = "tree";
const DAY_S = 86_400;

const data = JSON.parse(new TextDecoder().decode(await unpack("report")));
const { clusters } = data;
const all = clusters.title.map((_, at) => at); // places in the columns, of which one holds the labels
const children = all.map(() => []);
const roots = [];
all.forEach((label) => (clusters.parent[label] < 0 ? roots : children[clusters.parent[label]]).push(label));
const searched = all.map((label) =>
  fold([clusters.title[label], ...clusters.terms[label], ...clusters.exemplars[label]].join("\n")),
);
const state = { query: "", layer: data.layers.length > 1 ? TREE : "0", sort: "size", page: 0, open: new Set() };

const SORTS = {
  size: ["records", (label) => -clusters.size[label]],
  title: ["title", null],
  inside: ["links inside", (label) => -(clusters.inside[label] ?? -1)],
  loose: ["links inside, loose first", (label) => clusters.inside[label] ?? 2],
  ...(data.span && {
    first: ["first seen", (label) => clusters.first[label] ?? Infinity],
    last: ["last seen, latest first", (label) => -(clusters.last[label] ?? -Infinity)],
  }),
  ...(clusters.sources && { sources: ["sources", (label) => -clusters.n_sources[label]] }),
};

function sorted(labels) {
  const [, key] = SORTS[state.sort];
  const names = new Intl.Collator("en", { numeric: true });
  return [...labels].sort((a, b) =>
    key ? key(a) - key(b) || a - b : names.compare(clusters.title[a], clusters.title[b]) || a - b,
  );
}

const words = () => fold(state.query).split(/\s+/).filter(Boolean);

// The clusters of the page's first level, in their order.
function chosen() {
  const wanted = words();
  const layer = Number(state.layer);
  if (wanted.length) {
    return sorted(
      all.filter(
        (label) =>
          (state.layer === TREE || clusters.layers[label].includes(layer)) &&
          wanted.every((word) => searched[label].includes(word)),
      ),
    );
  }
  return sorted(state.layer === TREE ? roots : all.filter((label) => clusters.layers[label].includes(layer)));
}

const date = (second) => {
  const text = new Date(second * 1000).toISOString();
  return data.span[1] * 32 > 3 * DAY_S ? text.slice(0, 10) : `${text.slice(0, 10)} ${text.slice(11, 16)}`;
};
const dates = (label) => {
  if (!data.span || clusters.last[label] === null) return "";
  const [first, last] = [date(clusters.first[label]), date(clusters.last[label])];
  return first === last ? first : `${first} to ${last}`;
};

function spark(label, kind = "spark") {
  if (!data.span) return null;
  const values = clusters.times[label];
  const most = Math.max(1, ...values);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", kind);
  svg.setAttribute("viewBox", `0 0 ${3 * values.length} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", dates(label));
  values.forEach((value, i) => {
    if (!value) return;
    const bar = document.createElementNS(svg.namespaceURI, "rect");
    const height = Math.max(1.5, (20 * value) / most);
    for (const [name, number] of Object.entries({ x: 3 * i, y: 20 - height, width: 2.4, height })) {
      bar.setAttribute(name, number);
    }
    svg.append(bar);
  });
  return svg;
}

const bar = (part) =>
  part === null
    ? null
    : make(
        "span",
        { class: "share", title: `${Math.round(100 * part)} % of the texts' nearest neighbors are inside` },
        make("i", { style: { width: `${100 * part}%` } }),
      );

function line(label, depth, wanted) {
  const open = state.open.has(label);
  const toggle = () => {
    if (!state.open.delete(label)) state.open.add(label);
    draw(label);
  };
  const headline = clusters.exemplars[label][0] ?? "";
  const same = fold(headline) === fold(clusters.title[label]);
  return make(
    "tr",
    { id: `cluster-${clusters.label[label]}` },
    make(
      "td",
      { class: `name depth${Math.min(depth, 5)}` },
      make(
        "button",
        { class: "fold", "aria-expanded": String(open), click: toggle },
        marked(clusters.title[label], wanted),
      ),
      same ? null : make("div", { class: "quiet" }, marked(headline, wanted)),
    ),
    make("td", { class: "n" }, count(clusters.size[label])),
    make("td", { class: "n" }, share(clusters.size[label], data.records)),
    data.span ? make("td", { class: "spark-cell" }, spark(label)) : null,
    clusters.sources ? make("td", { class: "by" }, by(label)) : null,
    make("td", {}, bar(clusters.inside[label])),
  );
}

function by(label) {
  const [first] = clusters.sources[label];
  if (!first) return "";
  const others = clusters.n_sources[label] - 1;
  return make("span", {}, said(first[0]), others ? make("span", { class: "quiet" }, ` and ${count(others)} more`) : "");
}

// The first record, with its time and source; several may have the same time.
function earliest(label, wanted) {
  if (!clusters.earliest[label]) return null;
  const [text, source] = clusters.earliest[label];
  const others = clusters.tied[label] - 1;
  const when = moment(new Date(clusters.first[label] * 1000));
  const tied = others ? `; ${count(others)} more ${others === 1 ? "has" : "have"} the same time` : "";
  const from = source ? make("span", {}, ", ", said(source)) : null;
  return make("p", {}, `First ${when}`, from, ": “", marked(text, wanted), `”${tied}`);
}

// The sources with most records, which tells nothing of who was first.
function mostFrom(label) {
  const named = clusters.sources[label];
  const others = clusters.n_sources[label] - named.length;
  const told = named.map(([name, number]) => `${name} ${count(number)}`).join(", ");
  return named.length
    ? make("p", {}, "Most records: ", said(told), others > 0 ? ` and ${plural(others, "other source")}` : null)
    : null;
}

function list(title, texts, wanted) {
  const items = texts.map((text) => make("li", {}, marked(text, wanted)));
  return texts.length ? [make("h3", {}, title), make("ul", {}, items)] : [];
}

// The ids of the records of a cluster. The page has them by runs of the same cluster, for each layer.
let ids;
async function idsOf(label) {
  ids ??= unpack("ids").then((buffer) => JSON.parse(new TextDecoder().decode(buffer)));
  const { text_id, layers: runs } = await ids;
  const found = [];
  let at = 0;
  for (const [own, length] of runs[clusters.layers[label][0]]) {
    if (own === clusters.label[label]) found.push(text_id.slice(at, at + length));
    at += length;
  }
  return found.flat();
}

const copied = (text) => async (event) => {
  const button = event.target;
  button.textContent = (await copyText(await text())) ? "Copied" : "Not allowed here";
};

function idButtons(label) {
  const csv = (own) => ["text_id", ...own.map((id) => cell(id, true))].map((one) => `${one}\r\n`).join("");
  const name = `cluster-${clusters.label[label]}-ids.csv`;
  return [
    make("button", { click: copied(async () => (await idsOf(label)).join("\n")) }, "Copy ids"),
    make("button", { click: async () => download(name, csv(await idsOf(label))) }, "Download ids (CSV)"),
  ];
}

// The code that takes the ids from labels.parquet, where they are too many for the page.
function idsByCode(label) {
  const own = clusters.label[label];
  const [layer] = clusters.layers[label];
  const held = clusters.layers[label].includes(data.chosen)
    ? `pd.read_parquet("labels.parquet", columns=["text_id"], filters=[("label", "==", ${own})])`
    : `pd.read_parquet("labels.parquet", columns=["text_id", "layers"])\nids = ids[ids.layers.str[${layer}] == ${own}]`;
  const code = `import pandas as pd\nids = ${held}\nids.text_id.to_csv("cluster-${own}-ids.csv", index=False)`;
  return [
    make("h3", {}, "Its ids"),
    make("p", { class: "quiet" }, "They are too many for this page. Python reads them, in the folder of this page:"),
    make("pre", {}, code),
    make("p", {}, make("button", { click: copied(() => code) }, "Copy the code")),
  ];
}

function detail(label, wanted) {
  const facts = [
    plural(clusters.size[label], "record"),
    plural(clusters.texts[label], "different text"),
    dates(label),
  ].filter(Boolean);
  return make(
    "tr",
    { class: "detail" },
    make(
      "td",
      { colspan: "9" },
      make("p", {}, said(facts.join(" · "))),
      data.span ? earliest(label, wanted) : null,
      clusters.sources ? mostFrom(label) : null,
      data.span ? spark(label, "spark wider") : null,
      make("p", { class: "quiet" }, said(clusters.terms[label].join(", "))),
      list("Texts that stand for it", clusters.exemplars[label], wanted),
      list("At its border", clusters.border[label], wanted),
      data.ids ? null : idsByCode(label),
      make(
        "p",
        { class: "actions" },
        data.map
          ? make("a", { class: "button", href: `map.html#cluster=${clusters.label[label]}` }, "Show on the map")
          : null,
        data.ids ? idButtons(label) : null,
        ` Label ${clusters.label[label]}${clusters.layers[label].includes(data.chosen) ? "" : ", of another layer"}`,
      ),
    ),
  );
}

function draw(focused) {
  const wanted = words();
  const top = chosen();
  const pages = Math.max(1, Math.ceil(top.length / PAGE));
  state.page = Math.min(state.page, pages - 1);
  const body = make("tbody");
  const add = (label, depth) => {
    body.append(line(label, depth, wanted));
    if (!state.open.has(label)) return;
    body.append(detail(label, wanted));
    if (state.layer === TREE) sorted(children[label]).forEach((child) => add(child, depth + 1));
  };
  top.slice(state.page * PAGE, (state.page + 1) * PAGE).forEach((label) => add(label, 0));
  const [when, whose] = [data.span && "when", clusters.sources && "most records of"];
  const heads = ["cluster", "records", "share", when, whose, "links inside"];
  const head = make(
    "thead",
    {},
    make(
      "tr",
      {},
      heads
        .filter(Boolean)
        .map((name) => make("th", { class: ["records", "share"].includes(name) ? "n" : null }, name)),
    ),
  );
  $("table").replaceChildren(head, body);
  const nested = state.layer === TREE ? "of the broadest layer; open one for what it holds" : "";
  const what = wanted.length ? "found" : nested;
  const left = data.all - all.length;
  const more = left ? `. Of all layers, the ${count(all.length)} largest are here; layers.parquet has all.` : "";
  $("shown").textContent = `${plural(top.length, "cluster")} ${what}${more}`;
  $("pages").hidden = pages < 2;
  const near = [...new Set([0, state.page - 2, state.page - 1, state.page, state.page + 1, state.page + 2, pages - 1])];
  $("pages").replaceChildren(
    ...near
      .filter((page) => page >= 0 && page < pages)
      .map((page) =>
        make(
          "button",
          {
            "aria-label": `Page ${page + 1}`,
            "aria-current": page === state.page ? "page" : null,
            click: () => show({ page }),
          },
          count(page + 1),
        ),
      ),
  );
  if (focused !== undefined) document.querySelector(`#cluster-${clusters.label[focused]} .fold`)?.focus();
}

function show(changes) {
  Object.assign(state, { page: 0 }, changes);
  draw();
}

function option(value, text) {
  return make("option", { value }, text);
}

function setTheme(theme) {
  const dark = theme ? theme === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

const layerNames = data.layers.map((n, number) => [
  String(number),
  `${plural(n, "cluster")}${number === data.chosen ? " (the labels)" : ""}`,
]);
const layers = data.layers.length > 1 ? [[TREE, "nested"], ...layerNames] : layerNames;
$("layer").append(...layers.map(([value, text]) => option(value, text)));
$("layer").parentElement.hidden = layers.length < 2;
$("sort").append(...Object.entries(SORTS).map(([value, [text]]) => option(value, text)));
$("layer").addEventListener("change", (event) => show({ layer: event.target.value }));
$("sort").addEventListener("change", (event) => show({ sort: event.target.value }));
$("query").addEventListener("input", (event) => show({ query: event.target.value }));
$("theme").addEventListener("click", () =>
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(null));
setTheme(null);
// A link to a cluster, such as #cluster-17, opens it and what is around it.
function showAddress() {
  const label = clusters.label.indexOf(Number(/^#cluster-(\d+)$/.exec(window.location.hash)?.[1] ?? NaN));
  if (label < 0) return false;
  const around = [label];
  while (clusters.parent[around[0]] >= 0) around.unshift(clusters.parent[around[0]]);
  around.forEach((one) => state.open.add(one));
  Object.assign(state, { query: "", layer: layers[0][0] });
  if (state.layer !== TREE) state.layer = String(clusters.layers[label][0]);
  const top = chosen();
  state.page = Math.floor(Math.max(0, top.indexOf(state.layer === TREE ? around[0] : label)) / PAGE);
  draw(label);
  document.getElementById(`cluster-${clusters.label[label]}`)?.scrollIntoView({ block: "center" });
  return true;
}
window.addEventListener("hashchange", showAddress);
if (all.length) {
  $("tools").hidden = false;
  if (!showAddress()) draw();
}
document.documentElement.dataset.ready = "";
