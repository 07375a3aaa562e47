// Where points lie in; the point under the mouse, and how many lie in a rectangle, out.

const CELLS = 256; // along each axis

export class Grid {
  constructor(x, y) {
    this.x = x;
    this.y = y;
    const n = x.length;
    this.start = new Uint32Array(CELLS * CELLS + 1);
    for (let i = 0; i < n; i++) this.start[this.cell(i) + 1]++;
    for (let c = 0; c < CELLS * CELLS; c++) this.start[c + 1] += this.start[c];
    this.order = new Uint32Array(n);
    const next = this.start.slice();
    for (let i = 0; i < n; i++) this.order[next[this.cell(i)]++] = i;
    this.sums = new Float64Array((CELLS + 1) * (CELLS + 1)); // of all cells below and left of a corner
    for (let r = 0; r < CELLS; r++) {
      for (let c = 0, line = 0; c < CELLS; c++) {
        line += this.start[r * CELLS + c + 1] - this.start[r * CELLS + c];
        this.sums[(r + 1) * (CELLS + 1) + c + 1] = this.sums[r * (CELLS + 1) + c + 1] + line;
      }
    }
  }

  cell(i) {
    return (this.y[i] >> 8) * CELLS + (this.x[i] >> 8);
  }

  // The nearest point that `isShown`, at most `radius` away, or -1. All in the units of x and y.
  nearest(x, y, radius, isShown) {
    const clamp = (value) => Math.min(CELLS - 1, Math.max(0, value >> 8));
    let best = -1;
    let least = radius * radius;
    for (let r = clamp(y - radius); r <= clamp(y + radius); r++) {
      for (let c = clamp(x - radius); c <= clamp(x + radius); c++) {
        for (let at = this.start[r * CELLS + c]; at < this.start[r * CELLS + c + 1]; at++) {
          const i = this.order[at];
          const distance = (this.x[i] - x) ** 2 + (this.y[i] - y) ** 2;
          if (distance < least && isShown(i)) [best, least] = [i, distance];
        }
      }
    }
    return best;
  }

  // About how many points lie in a rectangle; a cell counts by the share that lies in it.
  count(left, bottom, right, top) {
    const at = (x, y) => {
      const place = (value) => Math.min(CELLS, Math.max(0, value / 256));
      const [c, r] = [place(x), place(y)];
      const [c0, r0] = [Math.min(CELLS - 1, Math.floor(c)), Math.min(CELLS - 1, Math.floor(r))];
      const sum = (row, column) => this.sums[row * (CELLS + 1) + column];
      const low = sum(r0, c0) + (sum(r0, c0 + 1) - sum(r0, c0)) * (c - c0);
      const high = sum(r0 + 1, c0) + (sum(r0 + 1, c0 + 1) - sum(r0 + 1, c0)) * (c - c0);
      return low + (high - low) * (r - r0);
    };
    return at(right, top) - at(left, top) - at(right, bottom) + at(left, bottom);
  }
}
