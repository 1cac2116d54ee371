/** Pointers on the piano roll: drag, pinch, wheel, tap, and a drag across the ruler. */

import { AXIS_HEIGHT, KEYS_WIDTH } from "./roll_layout.js";

const CLICK_SLACK = 6; // px that the pointer may move during a tap

/** @typedef {{ x: number, y: number }} Point in CSS pixels */
/**
 * @typedef {object} Actions what pointers do
 * @property {(pixels: number) => boolean} pan false at the end
 * @property {(factor: number, x: number) => void} zoom
 * @property {(point: Point) => void} tap
 * @property {(from: Point, to: Point) => void} select a drag across the ruler
 * @property {(point: Point | null) => void} hover
 * @property {(from: Point) => ((to: Point, done: boolean) => void) | null} grab takes over a drag; null: it pans
 */

export class RollPointer {
  /** @type {Map<number, Point>} */
  #pointers = new Map();
  #travelled = 0;
  /** @type {Point} */
  #from = { x: 0, y: 0 };
  /** @type {((to: Point, done: boolean) => void) | null} */
  #grabbed = null;

  /** @param {HTMLElement} node @param {Actions} actions */
  constructor(node, actions) {
    this.node = node;
    this.actions = actions;
    const on = node.addEventListener.bind(node);
    on("wheel", (event) => this.#wheel(event), { passive: false });
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#move(event));
    on("pointerup", (event) => this.#up(event));
    on("pointercancel", (event) => this.#release(event));
    on("pointerleave", () => actions.hover(null));
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.actions.zoom(Math.exp(-wheelPixels(event, event.deltaY) * 0.008), event.offsetX);
      return;
    }
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) ? event.deltaX : event.deltaY;
    if (this.actions.pan(wheelPixels(event, sideways))) event.preventDefault(); // at the end, the page scrolls
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button > 0) return;
    this.node.setPointerCapture(event.pointerId);
    const point = pointOf(event);
    this.#pointers.set(event.pointerId, point);
    this.#travelled = this.#pointers.size > 1 ? Infinity : 0;
    this.#from = point;
    this.#grabbed = this.#pointers.size > 1 || point.y < AXIS_HEIGHT ? null : this.actions.grab(point);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    const now = pointOf(event);
    if (!before) {
      this.actions.hover(now.x >= KEYS_WIDTH && now.y >= AXIS_HEIGHT ? now : null);
      return;
    }
    this.#pointers.set(event.pointerId, now);
    if (this.#pointers.size === 2) this.#pinch(event.pointerId, before, now);
    else this.#drag(before, now);
  }

  /** @param {Point} before @param {Point} now */
  #drag(before, now) {
    this.#travelled += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
    if (this.#travelled <= CLICK_SLACK) return;
    this.actions.hover(null);
    if (this.#grabbed) {
      this.#grabbed(now, false);
    } else if (this.#from.y < AXIS_HEIGHT) {
      this.actions.select(this.#from, now);
    } else {
      this.node.classList.add("dragged");
      this.actions.pan(before.x - now.x);
    }
  }

  /** @param {number} id @param {Point} before @param {Point} now */
  #pinch(id, before, now) {
    const other = [...this.#pointers].find(([each]) => each !== id)?.[1];
    if (!other) return;
    const factor = Math.max(20, Math.abs(now.x - other.x)) / Math.max(20, Math.abs(before.x - other.x));
    this.actions.zoom(factor, other.x);
  }

  /** @param {PointerEvent} event */
  #up(event) {
    const point = pointOf(event);
    const grabbed = this.#grabbed;
    if (!this.#release(event)) return;
    if (this.#travelled <= CLICK_SLACK) {
      if (point.x >= KEYS_WIDTH) this.actions.tap(point);
    } else if (grabbed) {
      grabbed(point, true);
    }
  }

  /** @param {PointerEvent} event */
  #release(event) {
    this.node.classList.remove("dragged");
    this.#grabbed = null;
    return this.#pointers.delete(event.pointerId);
  }
}

/** @param {PointerEvent} event @returns {Point} */
const pointOf = (event) => ({ x: event.offsetX, y: event.offsetY });

/** Convert a wheel's lines and pages to pixels. @param {WheelEvent} event @param {number} delta */
function wheelPixels(event, delta) {
  return delta * [1, 16, 400][event.deltaMode];
}
