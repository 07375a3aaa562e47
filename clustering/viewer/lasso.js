// A line drawn on the map in; the points within it out.

import { HIDDEN } from "./state.js";

export class Lasso {
  // kind : "lasso" or "box"
  constructor(kind, app) {
    Object.assign(this, { kind, app, line: [] });
  }

  begin(place) {
    this.line = [place];
  }

  extend(place) {
    const [first] = this.line;
    if (this.kind === "lasso") this.line.push(place);
    else this.line = [first, [place[0], first[1]], place, [first[0], place[1]]];
    this.app.view.redraw();
  }

  end() {
    const { line } = this;
    this.line = [];
    this.app.selectWithin(line, this.kind);
  }

  draw(context, color) {
    if (this.line.length < 2) return;
    context.beginPath();
    this.line.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.strokeStyle = color;
    context.lineWidth = 2;
    context.stroke();
    context.globalAlpha = 0.12;
    context.fillStyle = color;
    context.fill();
    context.globalAlpha = 1;
  }
}

// 1 for each point that is shown and lies within a closed line of places on the screen.
export function pointsWithin(line, map, state, view) {
  const corners = line.map(([x, y]) => [view.fromX(x), view.fromY(y)]);
  const [xs, ys] = [corners.map(([x]) => x), corners.map(([, y]) => y)];
  const [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const found = new Uint8Array(map.n);
  for (let i = 0; i < map.n; i++) {
    const [x, y] = [map.points.x[i], map.points.y[i]];
    if (state.status[i] === HIDDEN || x < left || x > right || y < bottom || y > top) continue;
    let inside = 0;
    for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
      if (ys[a] > y !== ys[b] > y && x < ((xs[b] - xs[a]) * (y - ys[a])) / (ys[b] - ys[a]) + xs[a]) inside ^= 1;
    }
    found[i] = inside;
  }
  return found;
}
