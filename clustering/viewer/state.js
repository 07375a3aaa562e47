// What the user has chosen in; for each point whether and how it is drawn, and counts for the lists, out.

import { NO_TIME, NO_VALUE } from "./data.js";
import { NOISE, NONE, RAMP, RAMP_STEPS } from "./colors.js";

export const HIDDEN = 0;
export const DIM = 1;
export const PLAIN = 2;
export const LIT = 3;
export const AUTO = -1; // names of all layers, by zoom
export const NO_CLUSTER = -1; // the noise, as a choice of the list
export const COLUMN = "column:"; // before the name of a column that gives the color, which may be "cluster"
export const STRENGTH = "Strength: how firmly a text belongs to its cluster, from 0 to 1";

export class State {
  constructor(map) {
    this.map = map;
    this.noise = map.facts.noise;
    this.home = false; // noise counts with the cluster that it is nearest to
    this.layer = AUTO;
    this.color = "cluster";
    this.query = "";
    this.hits = null; // 1 for each text that the query finds
    this.cluster = null; // chosen in the list
    this.point = null; // whose text is shown
    this.selection = null; // 1 for each point of a lasso
    this.strength = 0; // least, in 255 steps
    this.time = null; // [first, last] in steps
    this.values = {}; // of columns: the number of the value that is shown
    this.found = Object.create(null); // of columns: what is asked of them, and 1 for each record that has it
    this.status = new Uint8Array(map.n);
    this.weight = new Uint32Array(map.n); // records that pass
    this.colors = new Uint8Array(map.n);
    this.counts = new Uint32Array(map.clusters.title.length); // of records that pass and are found
    this.unplaced = 0; // likewise, of the noise
    this.listeners = [];
  }

  // The layer whose clusters are colored and counted.
  get level() {
    return this.layer === AUTO ? this.map.facts.chosen : this.layer;
  }

  // The cluster of each point in that layer, -1 for noise.
  get labels() {
    return this.layers[this.level];
  }

  // Likewise of every layer. Noise that counts with the nearest cluster counts with the broader ones around it, too.
  get layers() {
    const { facts, layers, points, clusters } = this.map;
    if (!this.home) return layers;
    this.homes ??= layers.map((labels, layer) => {
      if (layer > facts.chosen) return labels;
      const around = clusters.title.map((_, cluster) => {
        while (cluster >= 0 && !clusters.layers[cluster].includes(layer)) cluster = clusters.parent[cluster];
        return cluster;
      });
      return labels.map((own, i) => (own >= 0 || points.home[i] < 0 ? own : around[points.home[i]]));
    });
    return this.homes;
  }

  // Records of each cluster in the run; with the noise that counts with it, as far as this page has it.
  get sizes() {
    const { clusters, layers, points, n } = this.map;
    if (!this.home) return clusters.size;
    if (!this.homeSizes) {
      this.homeSizes = [...clusters.size];
      const records = points.copies ?? points.records;
      this.layers.forEach((labels, l, all) => {
        for (let i = 0; i < n; i++) {
          const isNew = labels[i] !== layers[l][i] && (l === 0 || labels[i] !== all[l - 1][i]);
          if (isNew) this.homeSizes[labels[i]] += records[i];
        }
      });
    }
    return this.homeSizes;
  }

  get isFocused() {
    return this.cluster !== null || Boolean(this.hits) || Boolean(this.selection);
  }

  isMember(i, cluster) {
    if (cluster === NO_CLUSTER) return this.labels[i] < 0;
    return this.layers.some((layer) => layer[i] === cluster);
  }

  members(cluster) {
    const found = [];
    for (let i = 0; i < this.map.n; i++) if (this.isMember(i, cluster)) found.push(i);
    return found;
  }

  // The points that are in focus; all that are shown where nothing is.
  focused() {
    const least = this.isFocused ? LIT : PLAIN;
    const found = [];
    for (let i = 0; i < this.map.n; i++) if (this.status[i] >= least) found.push(i);
    return found;
  }

  passing(record) {
    const { records } = this.map;
    if (this.time) {
      const time = records.time[record];
      if (time === NO_TIME || time < this.time[0] || time > this.time[1]) return false;
    }
    for (const name in this.values) if (records[name][record] !== this.values[name]) return false;
    for (const name in this.found) if (!this.found[name].records[record]) return false;
    return true;
  }

  // Change some of the choices, and tell everybody.
  set(changes) {
    Object.assign(this, changes);
    this.evaluate();
    for (const listen of this.listeners) listen(changes);
  }

  evaluate() {
    const { map, status, weight, counts, hits, selection, cluster, labels, layers } = this;
    const { first, points } = map;
    const filtered = this.time !== null || Object.keys(this.values).length + Object.keys(this.found).length > 0;
    const narrowed = Boolean(hits) || Boolean(selection);
    counts.fill(0);
    this.unplaced = 0;
    this.total = { records: 0, found: 0, shown: 0, noise: 0, points: 0 };
    for (let i = 0; i < map.n; i++) {
      let passing = first[i + 1] - first[i];
      if (filtered) {
        passing = 0;
        for (let r = first[i]; r < first[i + 1]; r++) if (this.passing(r)) passing++;
      }
      if (!passing || points.strength[i] < this.strength || (labels[i] < 0 && !this.noise)) {
        status[i] = HIDDEN;
        weight[i] = 0;
        continue;
      }
      weight[i] = passing;
      this.total.shown += passing;
      if (!hits || hits[i]) this.total.found += passing; // also outside the cluster and the selection
      const found = (!hits || hits[i]) && (!selection || selection[i]);
      if (found) {
        if (labels[i] < 0) this.unplaced += passing;
        for (let l = 0; l < layers.length; l++) {
          const own = layers[l][i];
          if (own >= 0 && (l === 0 || own !== layers[l - 1][i])) counts[own] += passing;
        }
      }
      if (!found || (cluster !== null && !this.isMember(i, cluster))) {
        status[i] = DIM;
        continue;
      }
      status[i] = narrowed || cluster !== null ? LIT : PLAIN;
      this.total.records += passing;
      this.total.points++;
      if (labels[i] < 0) this.total.noise += passing;
    }
    this.colorPoints();
  }

  // The place in the texture of colors of each point.
  colorPoints() {
    const { map, colors, labels, color } = this;
    const { first, records } = map;
    if (color === "cluster") {
      const own = map.clusters.color;
      for (let i = 0; i < map.n; i++) colors[i] = labels[i] < 0 ? NOISE : own[labels[i]];
    } else if (color === "strength") {
      for (let i = 0; i < map.n; i++) colors[i] = RAMP + ((map.points.strength[i] * (RAMP_STEPS - 1)) / 255 + 0.5);
    } else if (color === "time") {
      const [low, high] = this.timeRange();
      for (let i = 0; i < map.n; i++) {
        const time = records.time[first[i]];
        const share = (time - low) / Math.max(1, high - low);
        colors[i] = time === NO_TIME ? NONE : RAMP + Math.min(1, Math.max(0, share)) * (RAMP_STEPS - 1);
      }
    } else {
      const codes = records[color.slice(COLUMN.length)];
      for (let i = 0; i < map.n; i++) colors[i] = codes[first[i]] < 10 ? codes[first[i]] : NONE;
    }
  }

  // Between which times nearly all records lie, so that a few wrong ones take no room.
  timeRange() {
    if (!this.range) {
      const known = this.map.records.time.filter((time) => time !== NO_TIME).sort();
      const at = (share) => known[Math.min(known.length - 1, Math.floor(known.length * share))] ?? 0;
      this.range = [known.length < 1000 ? at(0) : at(0.001), known.length < 1000 ? at(1) : at(0.999)];
    }
    return this.range;
  }

  date(time) {
    const { first, step } = this.map.columns.time;
    return new Date(1000 * (first + time * step));
  }

  steps(date) {
    const { first, step } = this.map.columns.time;
    return Math.round((date / 1000 - first) / step);
  }

  // The value of a record in a column of categories, "" for none.
  value(name, record) {
    const code = this.map.records[name][record];
    return code === NO_VALUE ? "" : this.map.columns[name].values[code];
  }
}
