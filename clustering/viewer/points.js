// Places, colors and status of all points in; a picture on a canvas out.

import { FADED } from "./colors.js";
import { DIM, HIDDEN, LIT } from "./state.js";

const VERTEX = `#version 300 es
in vec2 place;
in uvec2 look;  // color and status
uniform vec4 camera;  // scale and shift, along x and y
uniform float size;
uniform bool onlyLit;
uniform highp sampler2D colors;
out vec4 color;
void main() {
  bool lit = look.y == 3u;
  bool shown = look.y != 0u && lit == onlyLit;
  gl_Position = shown ? vec4(place * camera.xy + camera.zw, 0, 1) : vec4(9, 9, 9, 1);
  gl_PointSize = size * (lit ? 1.35 : 1.0);
  color = texelFetch(colors, ivec2(int(look.x), 0), 0);
  vec4 faded = texelFetch(colors, ivec2(14, 0), 0);
  if (look.y == 1u) color = vec4(mix(color.rgb, faded.rgb, 0.8), faded.a);  // nearly noise
  if (lit) color.a = 0.95;
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec4 color;
out vec4 pixel;
void main() {
  vec2 off = gl_PointCoord - 0.5;
  if (dot(off, off) > 0.25) discard;
  pixel = vec4(color.rgb * color.a, color.a);
}`;
const LEAST = 12_000; // points that are drawn in any case while the map moves
const FIRST = 40_000; // in the first picture of a movement
const [FAST_MS, SLOW_MS] = [22, 36]; // between two pictures of a movement

// Points are kept in a random order, so that the first ones are an even sample: while the map moves, fewer are drawn on
// a machine that is slow.
export class Points {
  constructor(canvas, map, state) {
    Object.assign(this, { canvas, state, n: map.n, share: Math.min(1, FIRST / map.n), last: 0 });
    this.order = shuffled(map.n);
    this.places = new Uint16Array(2 * map.n);
    for (let at = 0; at < map.n; at++) {
      this.places[2 * at] = map.points.x[this.order[at]];
      this.places[2 * at + 1] = map.points.y[this.order[at]];
    }
    this.look = new Uint8Array(2 * map.n);
    this.gl = canvas.getContext("webgl2", { antialias: false, alpha: true });
    if (this.gl) this.prepare();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => {
      this.prepare();
      this.update(this.table);
    });
  }

  prepare() {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [type, source] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, FRAGMENT],
    ]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.uniform = Object.fromEntries(
      ["camera", "size", "onlyLit"].map((name) => [name, gl.getUniformLocation(program, name)]),
    );
    const buffer = (name, data) => {
      const created = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, created);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
      gl.enableVertexAttribArray(gl.getAttribLocation(program, name));
      return gl.getAttribLocation(program, name);
    };
    gl.vertexAttribPointer(buffer("place", this.places), 2, gl.UNSIGNED_SHORT, true, 0, 0);
    gl.vertexAttribIPointer(buffer("look", this.look), 2, gl.UNSIGNED_BYTE, 0, 0);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER])
      gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  // Take over colors and status. table : of ``colorTable``
  update(table) {
    const { state, look, order, gl } = this;
    this.table = table;
    this.anyLit = state.isFocused;
    for (let at = 0; at < order.length; at++) {
      look[2 * at] = state.colors[order[at]];
      look[2 * at + 1] = state.status[order[at]];
    }
    if (!gl) return;
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, look); // the buffer of ``look`` is the one that was bound last
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, table);
  }

  // camera : {x, y, scale, width, height, ratio, size, moving}; scale in pixels for the whole breadth of the map
  draw(camera) {
    const n = this.adapt(camera.moving);
    if (!this.gl) return this.drawPlain(camera, n);
    const { gl, uniform } = this;
    const { x, y, scale, width, height } = camera;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const [sx, sy] = [(2 * scale) / width, (2 * scale) / height];
    gl.uniform4f(uniform.camera, sx, sy, -x * sx, -y * sy);
    gl.uniform1f(uniform.size, camera.size * camera.ratio);
    gl.uniform1i(uniform.onlyLit, 0);
    gl.drawArrays(gl.POINTS, 0, n);
    if (!this.anyLit) return undefined;
    gl.uniform1i(uniform.onlyLit, 1);
    return gl.drawArrays(gl.POINTS, 0, n);
  }

  // How many points this frame draws: fewer where the last frames of a movement took long.
  adapt(moving) {
    const now = performance.now();
    const took = now - this.last;
    this.last = now;
    if (!moving) return this.n;
    if (took < 500) {
      if (took > SLOW_MS) this.share = Math.max(this.share * 0.75, LEAST / this.n);
      else if (took < FAST_MS) this.share = Math.min(1, this.share * 1.15);
    }
    return Math.min(this.n, Math.ceil(this.n * this.share));
  }

  // Without WebGL: squares, and no more than a processor can draw.
  drawPlain({ x, y, scale, width, height, ratio, size }, n) {
    const context = this.canvas.getContext("2d");
    const { look, places, table } = this;
    const faded = (table[4 * FADED + 3] / 255).toFixed(2);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    for (let at = 0; at < Math.min(n, 5 * LEAST); at++) {
      const status = look[2 * at + 1];
      if (status === HIDDEN) continue;
      const [r, g, b] = table.subarray(4 * look[2 * at], 4 * look[2 * at] + 3);
      context.fillStyle = `rgba(${r}, ${g}, ${b}, ${status === DIM ? faded : 0.8})`;
      const side = size * (status === LIT ? 1.4 : 1);
      const [px, py] = [places[2 * at] / 65535, places[2 * at + 1] / 65535];
      context.fillRect((px - x) * scale + width / 2 - side / 2, height / 2 - (py - y) * scale - side / 2, side, side);
    }
  }
}

// The numbers below n in an order that looks random, and is the same each time.
function shuffled(n) {
  const order = new Uint32Array(n);
  let seed = 1;
  for (let i = 0; i < n; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const at = Math.floor((seed / 4294967296) * (i + 1));
    order[i] = order[at];
    order[at] = i;
  }
  return order;
}
