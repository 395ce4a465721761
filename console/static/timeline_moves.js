// Moves orders in the timeline: by pointer (mouse, pen, finger) and by arrow keys, until they are dropped or sent.
import { formatTime } from "./formats.js";
import { freeTimes } from "./orders.js";
import { orderOf, QUARTER } from "./timeline.js";

const DRAG_PIXELS = 5;
const HOUR = 4 * QUARTER;

export class Moves {
  // `move(order, {at, calendar})` is called with each drop; `open(order)` when an order is opened; `create(at,
  // calendar)` when a free interval is clicked; `say(text)` for screen readers; `ended()` when one is given up.
  constructor({ move, open, create, say, ended }) {
    Object.assign(this, { move, open, create, say, ended });
    this.current = null;
    addEventListener("pointermove", (event) => this.drag(event));
    addEventListener("pointerup", (event) => this.drop(event));
    addEventListener("pointercancel", () => this.giveUp());
    addEventListener("keydown", (event) => event.key === "Escape" && this.current && this.giveUp());
  }

  get busy() {
    return this.current !== null;
  }

  attach(timeline) {
    this.timeline = timeline;
    const { svg } = timeline;
    svg.addEventListener("pointerdown", (event) => this.press(event));
    // A finger on an order moves it, and does not scroll. (Chromium ignores touch-action inside an SVG.)
    svg.addEventListener("touchmove", (event) => this.busy && event.preventDefault(), { passive: false });
    svg.addEventListener("click", (event) => this.click(event));
    svg.addEventListener("keydown", (event) => this.key(event));
    svg.addEventListener("focusout", () => this.current?.byKeys && this.giveUp());
  }

  press(event) {
    const element = event.target.closest("g.order");
    this.dragged = false;
    if (!element || event.button !== 0 || this.busy) return;
    const order = orderOf(element);
    if (!order.booked) return;
    const grip = this.timeline.timeAt(this.timeline.point(event).x) - order.at;
    this.current = { element, order, grip, pointer: event.pointerId, begin: [event.clientX, event.clientY], moves: false };
  }

  drag(event) {
    const { current, timeline } = this;
    if (!current || current.pointer !== event.pointerId) return;
    if (!current.moves) {
      if (Math.hypot(event.clientX - current.begin[0], event.clientY - current.begin[1]) < DRAG_PIXELS) return;
      current.moves = this.dragged = true;
      timeline.svg.setPointerCapture(event.pointerId);
      this.begin();
    }
    const { x, y } = timeline.point(event);
    const calendar = timeline.rowAt(y).calendar;
    current.target = { calendar, at: timeline.snap(timeline.timeAt(x) - current.grip, calendar) };
    this.show();
  }

  // Shows where the order would be, and says it to those who move it by keys.
  show() {
    const { target, byKeys } = this.current;
    this.timeline.showGhost(target.at, target.calendar);
    if (!byKeys) return;
    const free = this.timeline.isFree(target.calendar, target.at) ? "free" : "not free";
    this.say(`${formatTime(target.at)}, ${target.calendar}, ${free}. Enter moves it there, Escape leaves it.`);
  }

  // Marks the order, and asks where it may go: it is not in its own way.
  begin() {
    const { current, timeline } = this;
    current.element.classList.add("moving");
    freeTimes(timeline.rows.map(({ calendar }) => calendar), timeline.from, timeline.to, current.order.id).then(
      (items) => {
        if (this.current !== current) return;
        timeline.showReachable(items);
        if (current.target) this.show();
      },
      (error) => this.say(error.message),
    );
  }

  drop(event) {
    const { current } = this;
    if (!current || current.pointer !== event.pointerId) return;
    if (!current.moves) this.current = null;
    else this.send();
  }

  send() {
    const { order, target } = this.current;
    this.end();
    if (target.at === order.at && target.calendar === order.calendar) this.ended();
    else this.move(order, target);
  }

  end() {
    const { current, timeline } = this;
    this.current = null;
    current.element.classList.remove("moving");
    timeline.hideGhost();
    timeline.hideReachable();
  }

  giveUp() {
    if (!this.current) return;
    const { moves } = this.current;
    this.end();
    if (moves) this.say("Not moved.");
    this.ended();
  }

  click(event) {
    // The click that ends a drag.
    if (this.dragged) return;
    const element = event.target.closest("g.order");
    if (element) return this.open(orderOf(element));
    if (event.target.classList.contains("free")) {
      const { calendar } = event.target.dataset;
      const [first, last] = [event.target.dataset.from, event.target.dataset.to].map((text) => Date.parse(text));
      const at = this.timeline.snap(this.timeline.timeAt(this.timeline.point(event).x), calendar);
      this.create(Math.min(Math.max(at, first), last), calendar);
    }
  }

  key(event) {
    const element = event.target.closest("g.order");
    if (!element || this.current?.pointer !== undefined) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (this.current) this.send();
      else this.open(orderOf(element));
      return;
    }
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.shift(element, step[0] * (event.shiftKey ? HOUR : QUARTER), step[1]);
  }

  shift(element, time, rows) {
    const { timeline } = this;
    const order = orderOf(element);
    if (!order.booked) return this.say("This order is cancelled. Reinstate it before you move it.");
    if (!this.current) {
      this.current = { element, order, byKeys: true, moves: true, target: { at: order.at, calendar: order.calendar } };
      this.begin();
    }
    const { target } = this.current;
    const row = timeline.rows.findIndex(({ calendar }) => calendar === target.calendar) + rows;
    target.calendar = timeline.rows[Math.min(Math.max(row, 0), timeline.rows.length - 1)].calendar;
    target.at = Math.min(Math.max(target.at + time, timeline.from), timeline.to);
    this.show();
  }
}
