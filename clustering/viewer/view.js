// Mouse, touch and keys in; what part of the map is seen out.

const LEAST_ZOOM = 0.4;
const MOST_ZOOM = 160;
const FLIGHT_MS = 350;
const REST_MS = 140; // after the last movement

// The longer side of a box, as a share of the map.
export const spanOf = ([x0, , x1, y0, , y1]) => Math.max(x1 - x0, y1 - y0, 300) / 65535;

// x and y are the middle of the screen, from 0 to 1; at zoom 1 the whole map is seen.
export class View {
  constructor(canvas, n) {
    Object.assign(this, { canvas, n, x: 0.5, y: 0.5, zoom: 1, width: 1, height: 1, ratio: 1, moving: false });
    this.onDraw = () => {};
    this.onClick = () => {};
    this.onHover = () => {};
    this.onMoved = () => {};
    this.drawing = null; // a lasso or box takes the mouse instead
    this.pointers = new Map();
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => this.onHover(null));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("dblclick", (event) => this.zoomAt(2, ...this.place(event)));
  }

  get scale() {
    return Math.min(this.width, this.height) * 0.94 * this.zoom;
  }

  get size() {
    const crowd = Math.max(0.5, Math.min(2.2, 140 / Math.sqrt(this.n)));
    return Math.max(1.6, Math.min(8, 2.4 * Math.sqrt(this.zoom) * crowd));
  }

  // Between places on the screen, in pixels, and those of the page's columns, from 0 to 65535.
  toX(x) {
    return (x / 65535 - this.x) * this.scale + this.width / 2;
  }
  toY(y) {
    return this.height / 2 - (y / 65535 - this.y) * this.scale;
  }
  fromX(x) {
    return ((x - this.width / 2) / this.scale + this.x) * 65535;
  }
  fromY(y) {
    return ((this.height / 2 - y) / this.scale + this.y) * 65535;
  }

  fit() {
    const { width, height } = this.canvas.getBoundingClientRect();
    Object.assign(this, { width, height, ratio: Math.min(window.devicePixelRatio || 1, 2) });
    this.redraw();
  }

  redraw() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.onDraw();
      if (this.moving) this.awaitRest();
    });
  }

  // From the last picture of a movement on, however long that took; a drag rests when it ends.
  awaitRest() {
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      if (this.pointers.size && this.dragged) return this.awaitRest();
      this.moving = false;
      this.redraw();
      return this.onMoved();
    }, REST_MS);
  }

  // A movement: fewer points may be drawn, and names are not placed anew, until it rests.
  touch() {
    this.moving = true;
    this.redraw();
  }

  pan(dx, dy) {
    this.x = Math.min(1.2, Math.max(-0.2, this.x - dx / this.scale));
    this.y = Math.min(1.2, Math.max(-0.2, this.y + dy / this.scale));
    this.touch();
  }

  zoomAt(factor, px = this.width / 2, py = this.height / 2) {
    const [x, y] = [this.fromX(px) / 65535, this.fromY(py) / 65535];
    this.zoom = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, this.zoom * factor));
    this.x = x - (px - this.width / 2) / this.scale;
    this.y = y + (py - this.height / 2) / this.scale;
    this.touch();
  }

  // Fly to a place. zoom : at the end; right, bottom : pixels at these sides of the map that something covers
  fly(middle, center, zoom, { right = 0, bottom = 0 } = {}) {
    const scale = (this.scale / this.zoom) * Math.min(MOST_ZOOM, zoom);
    const [x, y] = [middle + right / 2 / scale, center - bottom / 2 / scale];
    const from = { x: this.x, y: this.y, zoom: this.zoom };
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const began = performance.now();
    cancelAnimationFrame(this.flight);
    const step = () => {
      const part = still ? 1 : Math.min(1, (performance.now() - began) / FLIGHT_MS);
      const eased = part * part * (3 - 2 * part);
      this.x = from.x + (x - from.x) * eased;
      this.y = from.y + (y - from.y) * eased;
      this.zoom = from.zoom * (Math.min(MOST_ZOOM, zoom) / from.zoom) ** eased;
      this.touch();
      if (part < 1) this.flight = requestAnimationFrame(step);
    };
    step();
  }

  // Fly to a box of the page's columns, which then takes a share of what nothing covers.
  flyToBox([x0, , x1, y0, , y1], share, covered = {}) {
    const { right = 0, bottom = 0 } = covered;
    const free = Math.min(this.width - right, this.height - bottom) / Math.min(this.width, this.height);
    const zoom = (free * share) / spanOf([x0, 0, x1, y0, 0, y1]);
    this.fly((x0 + x1) / 131070, (y0 + y1) / 131070, Math.min(40, Math.max(LEAST_ZOOM, zoom)), covered);
  }

  place(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  down(event) {
    cancelAnimationFrame(this.flight);
    this.canvas.setPointerCapture(event.pointerId);
    const place = this.place(event);
    this.pointers.set(event.pointerId, place);
    this.dragged = this.pointers.size > 1;
    this.begun = place;
    if (this.drawing) this.drawing.begin(place);
  }

  move(event) {
    const place = this.place(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) return this.onHover(place, event);
    if (this.drawing) return this.drawing.extend(place);
    if (Math.hypot(place[0] - this.begun[0], place[1] - this.begun[1]) > 4) this.dragged = true;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, other]) => other);
    this.pointers.set(event.pointerId, place);
    if (others.length) {
      const [other] = others;
      const distance = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
      this.zoomAt(distance(place) / distance(before), (place[0] + other[0]) / 2, (place[1] + other[1]) / 2);
      return this.pan((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
    }
    if (!this.dragged) return undefined;
    this.canvas.classList.add("moving");
    this.onHover(null);
    return this.pan(place[0] - before[0], place[1] - before[1]);
  }

  up(event) {
    const known = this.pointers.delete(event.pointerId);
    this.canvas.classList.remove("moving");
    if (!known) return;
    if (this.drawing) this.drawing.end();
    else if (!this.dragged && event.type === "pointerup") this.onClick(this.place(event));
  }

  wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    this.zoomAt(Math.exp(-Math.max(-300, Math.min(300, event.deltaY * lines)) * 0.0018), ...this.place(event));
  }
}
