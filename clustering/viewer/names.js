// Clusters and a camera in; their names out, each where it lies on no other and on few points.

const OPENS_PX = 230; // a cluster that is larger on the screen gives way to the clusters in it
const LEAST_PX = 9; // a cluster that is smaller has no name
const PIXELS = 14_000; // of the screen, for each name
const CHARACTERS = 60; // of a name
const LINE = 24; // characters of a line; half as many where they are wide
const WIDE = /[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff00-\uff60]/;

// Short lines of a title.
export function nameLines(title) {
  const characters = [...title];
  const cut = characters.length > CHARACTERS ? `${characters.slice(0, CHARACTERS - 1).join("")}…` : title;
  const most = WIDE.test(cut) ? LINE / 2 : LINE;
  const lines = [];
  let line = "";
  for (const word of cut.split(" ")) {
    if (line && line.length + 1 + word.length > most) {
      lines.push(line);
      line = word;
    } else {
      line = line ? `${line} ${word}` : word;
    }
    while (line.length > 1.4 * most) {
      lines.push(line.slice(0, most));
      line = line.slice(most);
    }
  }
  lines.push(line);
  return lines.slice(0, 3);
}

export class Names {
  constructor(map, state, grid) {
    Object.assign(this, { map, state, grid, lines: new Map(), widths: new Map(), placed: [] });
    this.context = document.createElement("canvas").getContext("2d");
    this.largest = map.clusters.size.reduce((most, size) => Math.max(most, size), 1); // too many for arguments
  }

  // The box of a cluster's points on the screen: of most of them, or (`heart`) of those where it is densest.
  box(cluster, camera, of = "box") {
    const [x0, x, x1, y0, y, y1] = this.map.clusters[of][cluster];
    return {
      left: camera.toX(x0),
      middle: camera.toX(x),
      right: camera.toX(x1),
      bottom: camera.toY(y0),
      center: camera.toY(y),
      top: camera.toY(y1),
    };
  }

  // Clusters that may be named at this zoom, the largest first.
  candidates(camera) {
    const { map, state } = this;
    const { layers, size } = map.clusters;
    const found = [];
    const visit = (cluster) => {
      const box = this.box(cluster, camera);
      if (box.right < 0 || box.left > camera.width || box.top > camera.height || box.bottom < 0) return;
      const extent = Math.max(box.right - box.left, box.bottom - box.top);
      const inner = map.children[cluster];
      if (extent > OPENS_PX && inner.length) return inner.forEach(visit);
      if (extent > LEAST_PX || camera.zoom > 8) found.push({ cluster, box, extent });
    };
    if (state.layer < 0) map.roots.forEach(visit);
    else {
      for (let cluster = 0; cluster < layers.length; cluster++) {
        if (!layers[cluster].includes(state.layer)) continue;
        const box = this.box(cluster, camera);
        found.push({ cluster, box, extent: Math.max(box.right - box.left, box.bottom - box.top) });
      }
    }
    const chosen = state.cluster;
    const shown = found.filter(
      ({ cluster }) =>
        state.counts[cluster] > 0 &&
        (chosen === null ||
          cluster === chosen ||
          map.clusters.parent[cluster] === chosen ||
          this.isWithin(cluster, chosen)),
    );
    if (chosen >= 0 && chosen !== null && !shown.some(({ cluster }) => cluster === chosen)) {
      const box = this.box(chosen, camera);
      shown.push({ cluster: chosen, box, extent: box.right - box.left });
    }
    return shown.sort(
      (a, b) =>
        (b.cluster === chosen) - (a.cluster === chosen) || size[b.cluster] - size[a.cluster] || a.cluster - b.cluster,
    );
  }

  isWithin(cluster, outer) {
    for (let up = this.map.clusters.parent[cluster]; up >= 0; up = this.map.clusters.parent[up])
      if (up === outer) return true;
    return false;
  }

  // Place the names for a camera at rest. right, bottom : pixels at these sides of the map that something covers
  layout(camera, { right = 0, bottom = 0 } = {}) {
    this.placed = [];
    this.free = { right: camera.width - right, bottom: camera.height - bottom };
    const most = Math.max(12, (camera.width * camera.height) / PIXELS);
    for (const { cluster, extent } of this.candidates(camera)) {
      if (this.placed.length >= most) break;
      const share = Math.log(1 + this.map.clusters.size[cluster]) / Math.log(1 + this.largest);
      const font = Math.round(Math.min(21, 8.5 + 6 * share + Math.min(6, extent / 60)));
      const name = this.measured(cluster, font);
      const place = this.findPlace(name, this.box(cluster, camera, "heart"), camera);
      if (place) this.placed.push({ ...name, ...place, cluster, font });
    }
    this.at = { x: camera.x, y: camera.y };
  }

  measured(cluster, font) {
    if (!this.lines.has(cluster)) this.lines.set(cluster, nameLines(this.map.clusters.title[cluster]));
    const lines = this.lines.get(cluster);
    if (!this.widths.has(cluster)) {
      this.context.font = nameFont(20);
      this.widths.set(cluster, Math.max(...lines.map((line) => this.context.measureText(line).width)) / 20);
    }
    return { lines, width: this.widths.get(cluster) * font + 6, height: lines.length * font * 1.15 + 4 };
  }

  // Beside the heart of a cluster, or in it where there are few points; null where other names leave no room.
  findPlace({ width, height }, box, camera) {
    const seen = {
      left: Math.max(2, box.left),
      right: Math.min(this.free.right - 2, box.right),
      top: Math.max(2, box.top),
      bottom: Math.min(this.free.bottom - 2, box.bottom),
    };
    const [x, y] = [box.middle - width / 2, box.center - height / 2];
    const spots = [
      [x, box.top - height - 2],
      [x, box.bottom + 2],
      [box.right + 3, y],
      [box.left - width - 3, y],
    ];
    for (const across of [0.5, 0.2, 0.8]) {
      for (const down of [0.15, 0.85, 0.5]) {
        spots.push([
          seen.left + (seen.right - seen.left) * across - width / 2,
          seen.top + (seen.bottom - seen.top) * down - height / 2,
        ]);
      }
    }
    let best = null;
    spots.forEach(([left, top], number) => {
      const right = left + width;
      const bottom = top + height;
      if (left < 1 || top < 1 || right > this.free.right - 1 || bottom > this.free.bottom - 1) return;
      const away = Math.max(box.left - right, left - box.right, box.top - bottom, top - box.bottom);
      if (away > 12) return;
      if (
        this.placed.some(
          (other) =>
            left < other.left + other.width &&
            other.left < right &&
            top < other.top + other.height &&
            other.top < bottom,
        )
      )
        return;
      const covered = this.grid.count(camera.fromX(left), camera.fromY(bottom), camera.fromX(right), camera.fromY(top));
      const cost = covered + number * 0.2;
      if (!best || cost < best.cost) best = { left, top, cost };
    });
    return best;
  }

  // Draw the names that are placed; while the map is dragged they go with it.
  draw(context, camera, style) {
    const dx = (this.at.x - camera.x) * camera.scale;
    const dy = (camera.y - this.at.y) * camera.scale;
    context.textAlign = "center";
    context.textBaseline = "top";
    context.lineJoin = "round";
    for (const { lines, left, top, width, font, cluster } of this.placed) {
      context.font = nameFont(font);
      context.lineWidth = Math.max(3, font / 4);
      context.strokeStyle = style.halo;
      context.fillStyle = style.color(cluster);
      lines.forEach((line, number) => {
        const at = [left + dx + width / 2, top + dy + 2 + number * font * 1.15];
        context.strokeText(line, ...at);
        context.fillText(line, ...at);
      });
    }
  }

  // The cluster whose name is at a place on the screen, or null.
  hit(x, y) {
    const found = this.placed.find(
      ({ left, top, width, height }) => x >= left && x <= left + width && y >= top && y <= top + height,
    );
    return found ? found.cluster : null;
  }
}

const nameFont = (size) => `600 ${size}px system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif`;
