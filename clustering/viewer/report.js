// The table of clusters: those of a layer with the finer ones in each, sorted, searched, and a page at a time.

import { unpack, fold } from "./data.js";
import { $, make, said, marked, count, share, plural, moment, copyText, cell, download, flash } from "./dom.js";

const PAGE = 50; // clusters of a page
const TREE = "tree"; // in the place of a layer: the broadest clusters, of whatever layer
const FOUND_INSIDE = 10; // finer clusters that a search shows in one
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
const state = { query: "", layer: String(data.chosen), sort: "size", page: 0, open: new Set() };

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

// The clusters of the first level of a layer, in any order.
const topsOf = (layer) =>
  layer === TREE ? roots : all.filter((label) => clusters.layers[label].includes(Number(layer)));

const parentOf = (label) => clusters.parent[label];

// Which clusters a search finds, and which have such a one in them; null without a search.
function findings() {
  const wanted = words();
  if (!wanted.length) return null;
  const own = new Set(all.filter((label) => wanted.every((word) => searched[label].includes(word))));
  const around = new Set();
  for (const label of own)
    for (let at = parentOf(label); at >= 0 && !around.has(at); at = parentOf(at)) around.add(at);
  return { own, around };
}

// The clusters of the page's first level, in their order.
function chosen(found) {
  const tops = topsOf(state.layer);
  return sorted(found ? tops.filter((label) => found.own.has(label) || found.around.has(label)) : tops);
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

// The text that is shown with a title, of those that stand for the cluster: the first that has what is searched, else
// the first that has a word of the title, else the first; "" where it is the title.
function headlineOf(label, wanted) {
  const title = fold(clusters.title[label]);
  const parts = title.replace(/^mixed: /, "").match(/[\p{L}\p{N}][\p{L}\p{N}\p{M}]+/gu) ?? [];
  const telling = parts.filter((word) => word.length > 3 || /[^\x00-\u04ff]/.test(word)); // not "and", but 台湾
  const texts = clusters.exemplars[label];
  const sought = wanted.length ? texts.find((text) => wanted.every((word) => fold(text).includes(word))) : undefined;
  const near = texts.find((text) => telling.some((word) => fold(text).includes(word)));
  const found = sought ?? near ?? texts[0] ?? "";
  return fold(found) === title ? "" : found;
}

function line(label, depth, wanted) {
  const open = state.open.has(label);
  // Anywhere in the row, but for who marks a text of it to copy it.
  const toggle = (event) => {
    const button = event.target.closest("button");
    if (!button && !window.getSelection().isCollapsed) return;
    if (!state.open.delete(label)) state.open.add(label);
    draw(button ? label : undefined);
  };
  const headline = headlineOf(label, wanted);
  const unit = clusters.size[label] === 1 ? " record" : " records"; // where the table has no room for a head
  return make(
    "tr",
    { id: `cluster-${clusters.label[label]}`, class: "line", click: toggle },
    make(
      "td",
      { class: `name depth${Math.min(depth, 5)}` },
      make("button", { class: "fold", "aria-expanded": String(open) }, marked(clusters.title[label], wanted)),
      headline ? make("div", { class: "quiet" }, marked(headline, wanted)) : null,
    ),
    make("td", { class: "n" }, count(clusters.size[label]), make("span", { class: "unit" }, unit)),
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

// How many more finer clusters a search found in one.
function rest(number, depth) {
  const told = `and ${count(number)} more in it; open it for all`;
  return make("tr", {}, make("td", { colspan: "9", class: `quiet depth${Math.min(depth, 5)}` }, told));
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
  flash(button, (await copyText(await text())) ? "Copied" : "Not allowed here");
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

function detail(label, depth, wanted) {
  const around = depth ? -1 : parentOf(label);
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
      around < 0
        ? null
        : make(
            "p",
            {},
            "Part of ",
            make("a", { href: `#cluster-${clusters.label[around]}` }, said(clusters.title[around])),
            ` (${plural(clusters.size[around], "record")})`,
          ),
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
  const found = findings();
  const top = chosen(found);
  const pages = Math.max(1, Math.ceil(top.length / PAGE));
  state.page = Math.min(state.page, pages - 1);
  const body = make("tbody");
  const add = (label, depth) => {
    body.append(line(label, depth, wanted));
    if (state.open.has(label)) {
      body.append(detail(label, depth, wanted));
      sorted(children[label]).forEach((child) => add(child, depth + 1));
    } else if (found && !found.own.has(label)) {
      const inside = sorted(children[label].filter((child) => found.own.has(child) || found.around.has(child)));
      inside.slice(0, FOUND_INSIDE).forEach((child) => add(child, depth + 1));
      if (inside.length > FOUND_INSIDE) body.append(rest(inside.length - FOUND_INSIDE, depth + 1));
    }
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
  const kind = state.layer === TREE ? ", the broadest of all layers" : layerKind(Number(state.layer));
  const elsewhere = found?.own.size && !top.length ? ` in this layer, ${count(found.own.size)} in others` : "";
  const hint = data.layers.length > 1 ? "; open one for the finer ones in it" : "";
  const what = found ? ` found${elsewhere}` : `${kind}${hint}`;
  const left = data.all - all.length;
  const more = left ? `. Of all layers, the ${count(all.length)} largest are here; layers.parquet has all.` : "";
  $("shown").textContent = `${plural(top.length, "cluster")}${what}${more}`;
  $("all-texts").hidden = !found || !data.map;
  $("all-texts").href = `map.html#${new URLSearchParams({ q: state.query.trim() })}`;
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
  clearTimeout(remembering);
  remembering = setTimeout(remember, 150);
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

// What a layer is beside that of the labels.
function layerKind(layer) {
  if (data.layers.length < 2) return "";
  return layer === data.chosen ? ", the labels" : `, a ${layer < data.chosen ? "broader" : "finer"} layer`;
}

const layerNames = data.layers.map((n, number) => [String(number), `${plural(n, "cluster")}${layerKind(number)}`]);
const layers = [...layerNames, [TREE, "all layers, nested"]];
$("layer").append(...layers.map(([value, text]) => option(value, text)));
$("layer").parentElement.hidden = data.layers.length < 2;
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
function showCluster(label) {
  const around = [label];
  while (parentOf(around[0]) >= 0) around.unshift(parentOf(around[0]));
  around.forEach((one) => state.open.add(one));
  const layer = [state.layer, String(data.chosen)].find((one) => topsOf(one).some((top) => around.includes(top)));
  Object.assign(state, { query: "", layer: layer ?? TREE });
  const first = chosen(null).findIndex((one) => around.includes(one));
  state.page = Math.floor(Math.max(0, first) / PAGE);
}

// What is seen, in the address: who comes back from the map finds it again.
function addressOf() {
  const told = new URLSearchParams();
  if (state.query) told.set("q", state.query);
  if (state.open.size) told.set("open", [...state.open].map((label) => clusters.label[label]).join("-"));
  if (state.layer !== String(data.chosen)) told.set("layer", state.layer);
  if (state.sort !== "size") told.set("sort", state.sort);
  if (state.page) told.set("page", state.page + 1);
  const hash = told.toString();
  return `${window.location.href.split("#")[0]}${hash ? `#${hash}` : ""}`;
}

let remembering;
function remember(kept = null) {
  clearTimeout(remembering);
  if (addressOf() !== window.location.href || kept) window.history.replaceState(kept, "", addressOf());
}

// Show what the address says. What it says wrongly is as if it were not there.
function showAddress() {
  clearTimeout(remembering);
  const named = /^#cluster-(\d+)$/.exec(window.location.hash);
  const linked = named ? clusters.label.indexOf(Number(named[1])) : -1;
  if (linked >= 0) showCluster(linked);
  else {
    const told = new URLSearchParams(window.location.hash.slice(1));
    const opened = (told.get("open") ?? "").split("-").filter(Boolean);
    Object.assign(state, {
      query: told.get("q") ?? "",
      layer: layers.find(([value]) => value === told.get("layer"))?.[0] ?? String(data.chosen),
      sort: Object.hasOwn(SORTS, told.get("sort") ?? "") ? told.get("sort") : "size",
      page: Math.max(0, Number.parseInt(told.get("page"), 10) - 1 || 0),
      open: new Set(opened.map((label) => clusters.label.indexOf(Number(label))).filter((label) => label >= 0)),
    });
  }
  $("query").value = state.query;
  $("layer").value = state.layer;
  $("sort").value = state.sort;
  draw(linked >= 0 ? linked : undefined);
  if (linked >= 0) document.getElementById(`cluster-${clusters.label[linked]}`).scrollIntoView({ block: "center" });
}

window.addEventListener("hashchange", showAddress);
// Who leaves for the map comes back to the same place.
document.addEventListener("click", (event) => {
  if (event.target.closest?.("a[href^='map.html']")) remember({ scroll: window.scrollY });
});
if (all.length) {
  const kept = window.history.state;
  $("tools").hidden = false;
  showAddress();
  if (kept?.scroll) {
    window.history.replaceState(null, "");
    window.scrollTo(0, kept.scroll);
  }
}
document.documentElement.dataset.ready = "";
