// The timeline's picture: which moment and which calendar a place of the screen is, and what is marked in it.
import { formatTime } from "./formats.js";
import { instantText } from "./zones.js";

const SVG = "http://www.w3.org/2000/svg";
export const QUARTER = 15 * 60 * 1000;
const SNAP_PIXELS = 7;

function draw(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// What a g.order says about its order.
export function orderOf(element) {
  const { order, version, datetime, calendar } = element.dataset;
  return { id: order, version: Number(version), datetime, at: Date.parse(datetime), calendar, booked: element.classList.contains("booked") };
}

export class Timeline {
  constructor(svg) {
    this.svg = svg;
    const { from, to, left, width } = svg.dataset;
    [this.from, this.to, this.left, this.width] = [Date.parse(from), Date.parse(to), Number(left), Number(width)];
    let top = null;
    this.rows = [...svg.querySelectorAll("g.row")].map((element) => {
      const begin = top ?? element.getBBox().y;
      top = parseFloat(element.querySelector(".rule").getAttribute("d").match(/^M\S+ ([\d.]+)/)[1]);
      return { element, calendar: element.dataset.calendar, top: begin, bottom: top };
    });
    this.free = new Map(this.rows.map(({ element, calendar }) => [
      calendar,
      [...element.querySelectorAll(".free")].map(({ dataset }) => [Date.parse(dataset.from), Date.parse(dataset.to)]),
    ]));
  }

  point(event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
  }

  x(at) {
    return this.left + (this.width * (at - this.from)) / (this.to - this.from);
  }

  timeAt(x) {
    return this.from + ((this.to - this.from) * (x - this.left)) / this.width;
  }

  rowAt(y) {
    return this.rows.find(({ top, bottom }) => y >= top && y < bottom) ?? (y < this.rows[0].top ? this.rows[0] : this.rows.at(-1));
  }

  rowOf(calendar) {
    return this.rows.find((row) => row.calendar === calendar);
  }

  isFree(calendar, at) {
    return (this.free.get(calendar) ?? []).some(([first, last]) => first <= at && at <= last);
  }

  // A quarter of an hour; near an end of a free interval, exactly that end.
  snap(at, calendar) {
    const near = (SNAP_PIXELS / this.svg.getScreenCTM().a / this.width) * (this.to - this.from);
    const quarter = Math.min(Math.round(at / QUARTER), Math.floor(this.to / QUARTER)) * QUARTER;
    const ends = (this.free.get(calendar) ?? []).flat().filter((end) => Math.abs(end - at) <= near);
    // A quarter that is free is a nicer time than the end beside it.
    const best = this.isFree(calendar, quarter) ? quarter : ends.sort((a, b) => Math.abs(a - at) - Math.abs(b - at))[0] ?? quarter;
    return Math.min(Math.max(best, this.from), this.to);
  }

  // Where an order could be that is not in its own way: shown under a drag.
  showReachable(items) {
    this.hideReachable();
    for (const { calendar, items: intervals } of items) {
      const row = this.rowOf(calendar);
      if (!row) continue;
      this.free.set(calendar, intervals.map(({ from, to }) => [Date.parse(from), Date.parse(to)]));
      for (const [first, last] of this.free.get(calendar)) {
        const place = draw("rect", { class: "reachable", x: this.x(first), y: row.top + 1, width: Math.max(this.x(last) - this.x(first), 1.5), height: row.bottom - row.top - 2 });
        row.element.querySelector(".rule").after(place);
      }
    }
  }

  hideReachable() {
    for (const each of this.svg.querySelectorAll(".reachable")) each.remove();
  }

  // Shows where an order would be.
  showGhost(at, calendar) {
    this.ghost?.remove();
    const row = this.rowOf(calendar);
    const x = this.x(at);
    const label = `${formatTime(at, "day")} ${formatTime(at, "clock")}`;
    const width = label.length * 6.2 + 16;
    const begin = Math.min(Math.max(x + 5, this.left), this.left + this.width - width);
    this.ghost = draw("g", { class: this.isFree(calendar, at) ? "ghost" : "ghost taken" });
    this.ghost.append(
      draw("rect", { class: "ghost-mark", x: x - 1, y: row.top, width: 3, height: row.bottom - row.top }),
      draw("rect", { class: "ghost-label", x: begin, y: row.top + 5, width, height: 22, rx: 5 }),
      draw("text", { x: begin + 8, y: row.top + 20 }, label),
    );
    this.svg.append(this.ghost);
  }

  hideGhost() {
    this.ghost?.remove();
    this.ghost = null;
  }

  // Marks datetimes in the row of a calendar as places to drop at; `choose(at)` is called when one is clicked.
  showPlaces(calendar, datetimes, choose) {
    this.hidePlaces();
    const row = this.rowOf(calendar);
    if (!row) return;
    for (const at of datetimes) {
      if (at < this.from || at > this.to) continue;
      const place = draw("g", { class: "place", "data-at": instantText(at) });
      place.append(
        draw("title", {}, formatTime(at, "second")),
        draw("rect", { x: this.x(at) - 6, y: row.top + 2, width: 12, height: row.bottom - row.top - 4, rx: 4 }),
      );
      place.addEventListener("click", () => choose(at));
      this.svg.append(place);
    }
  }

  hidePlaces() {
    for (const each of this.svg.querySelectorAll(".place")) each.remove();
  }
}
