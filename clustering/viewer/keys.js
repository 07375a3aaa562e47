// Keys that are pressed in; what the page does on them out.

import { HIDDEN } from "./state.js";
import { $ } from "./dom.js";

const STEP_PX = 60; // of the map, for an arrow

export class Keys {
  constructor(app) {
    this.app = app;
    document.addEventListener("keydown", (event) => this.press(event));
    document.addEventListener("pointerdown", (event) => {
      this.onMap = $("stage").contains(event.target); // the last click, for what has no focus
    });
    $("names").addEventListener("keydown", (event) => this.move(event));
    $("names").addEventListener("focus", () => this.aim($("names").matches(":focus-visible")));
    $("names").addEventListener("blur", () => this.aim(false));
  }

  // Whether the middle of the map, where Enter opens a text, is marked.
  aim(crosshair) {
    this.app.crosshair = crosshair;
    this.app.view.redraw();
  }

  move(event) {
    const { view } = this.app;
    const step = STEP_PX;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    this.app.crosshair = true;
    if (moves[event.key]) view.pan(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") view.zoomAt(1.4);
    else if (event.key === "-") view.zoomAt(1 / 1.4);
    else if (event.key === "0") view.fly(0.5, 0.5, 1);
    else if (event.key === "Enter") this.openMiddle();
    else return;
    event.preventDefault();
  }

  openMiddle() {
    const { view, grid, state } = this.app;
    const shown = (i) => state.status[i] !== HIDDEN;
    for (let radius = 10; radius < 640; radius *= 2) {
      const found = grid.nearest(view.x * 65535, view.y * 65535, (radius / view.scale) * 65535, shown);
      if (found >= 0) return this.app.pick({ point: found });
    }
    return undefined;
  }

  press(event) {
    if (event.key === "Escape" && !$("help").open) return this.escape(event);
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog"))
      return undefined;
    // Letters mean something only where somebody has gone to: one that comes by accident must not.
    const isIn = (...ids) => ids.some((id) => $(id).contains(event.target));
    const isMap = isIn("stage") || (event.target === document.body && this.onMap);
    const tools = { l: "lasso", b: "box", v: "seen", d: "theme" };
    if (event.key === "/") {
      event.preventDefault();
      return $("query").focus();
    }
    if (event.key === "?") return this.app.useTool("help");
    const step = { n: 1, p: -1 }[event.key];
    if (step) return (isMap || isIn("list", "card")) && this.app.panel.step(step);
    return isMap && tools[event.key] && this.app.useTool(tools[event.key]);
  }

  escape(event) {
    const { app } = this;
    if (event.defaultPrevented) return undefined;
    if (app.view.drawing) return app.setTool(null);
    if (!$("card").hidden) return app.pick({ close: true });
    $("query").value = "";
    return app.search("");
  }
}
