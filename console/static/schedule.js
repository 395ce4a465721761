// The schedule: writes what a visitor moves, creates and cancels, and shows what others change.
import { notify, Problem } from "./api.js";
import { formatTime } from "./formats.js";
import { follow } from "./live.js";
import { openNewOrder, openOrder, saysChangedMeanwhile, showRefusal } from "./order_dialogs.js";
import { moveOrder } from "./orders.js";
import { preparePicker } from "./picker.js";
import { readParts } from "./refresh.js";
import { Timeline, QUARTER } from "./timeline.js";
import { Moves } from "./timeline_moves.js";

const TOGETHER_MS = 20;
const AGAIN_MS = 5 * 60_000;

const content = document.getElementById("schedule");
const mayWrite = document.body.dataset.scopes.split(" ").includes("orders:write");
const calendars = () => JSON.parse(content.dataset.calendars);
const say = (text) => { document.getElementById("said").textContent = text; };

let timeline = null;
let isStale = false;
let timer = null;
let fetching = null;

const moves = mayWrite && new Moves({
  move, say,
  open: ({ id }) => open(id),
  create: (at, calendar) => create(at, calendar),
  ended: refreshIfStale,
});

// Makes what is shown usable, after each time that it came from the server.
function prepare() {
  const svg = content.querySelector("svg.timeline");
  if (!svg) {
    timeline = null;
    return;
  }
  for (const order of svg.querySelectorAll("g.order")) {
    order.tabIndex = 0;
    order.setAttribute("role", mayWrite ? "button" : "link");
    order.setAttribute("aria-label", order.querySelector("title").textContent);
  }
  timeline = svg.querySelector("g.row") ? new Timeline(svg) : null;
  if (moves && timeline) moves.attach(timeline);
  else if (!moves) for (const type of ["click", "keydown"]) svg.addEventListener(type, lead);
  svg.addEventListener("click", leadToDay);
}

// A reader is led to the order's page.
function lead(event) {
  const order = event.target.closest("g.order");
  if (order && (event.type === "click" || event.key === "Enter")) location.assign(`/console/orders/${order.dataset.order}`);
}

function leadToDay({ target }) {
  if (!target.matches("rect.day")) return;
  const query = new URLSearchParams(location.search);
  query.set("view", "day");
  query.set("date", target.dataset.day);
  location.assign(`?${query}`);
}

// On a narrow screen, the timeline begins at the current time.
function scrollToNow() {
  const now = content.querySelector(".now circle");
  const box = document.getElementById("timeline");
  if (now && box) box.scrollLeft += now.getBoundingClientRect().x - box.getBoundingClientRect().x - box.clientWidth / 2;
}

const isBusy = () => moves?.busy || document.querySelector("dialog[open]") !== null;

function refreshIfStale() {
  if (isStale) refresh();
}

// Shows the page as the server renders it now, at once or when nothing is being moved or written.
async function refresh() {
  isStale = true;
  if (isBusy() || fetching) return;
  isStale = false;
  fetching = readParts(["schedule"]);
  try {
    const [fresh] = await fetching;
    if (isBusy()) isStale = true;
    else replace(fresh);
  } catch (error) {
    notify(error instanceof TypeError ? "The service can't be reached." : error.message);
  } finally {
    fetching = null;
  }
  refreshIfStale();
}

function replace(fresh) {
  const scrolled = [...content.querySelectorAll(".scroll")].map(({ id, scrollLeft }) => [id, scrollLeft]);
  const focus = selectorOf(document.activeElement);
  Object.assign(content.dataset, fresh.dataset);
  content.replaceChildren(...fresh.childNodes);
  prepare();
  for (const [id, left] of scrolled) {
    const element = document.getElementById(id);
    if (element) element.scrollLeft = left;
  }
  if (focus) content.querySelector(focus)?.focus({ preventScroll: true });
}

function selectorOf(element) {
  if (!content.contains(element)) return null;
  if (element.dataset.order) return `g[data-order="${CSS.escape(element.dataset.order)}"]`;
  if (element.dataset.open) return `[data-open="${CSS.escape(element.dataset.open)}"]`;
  if (element.id) return `#${CSS.escape(element.id)}`;
  return element.href ? `a[href="${CSS.escape(element.getAttribute("href"))}"]` : null;
}

async function move(order, target) {
  try {
    const after = await moveOrder(order, target);
    refresh();
    tellMoved(order, after);
  } catch (error) {
    if (saysChangedMeanwhile(error, order.id)) refresh();
    else if (error instanceof Problem && error.problem.type === "/problems/orders-too-close") offer(order, target, error.problem);
    else {
      refusal(error);
      refreshIfStale();
    }
  }
}

function refusal(error) {
  if (!(error instanceof Problem)) throw error;
  notify(error.message);
}

// Offers the nearest free datetimes, as buttons and as places in the timeline.
function offer(order, target, problem) {
  const dialog = document.getElementById("refused");
  let chosen = null;
  const choose = (at) => {
    chosen = { at, calendar: target.calendar };
    dialog.close();
  };
  say(problem.detail);
  const places = showRefusal(problem, choose, () => {
    timeline?.hidePlaces();
    if (chosen) move(order, chosen);
    else refreshIfStale();
  });
  timeline?.showPlaces(target.calendar, places, choose);
}

function tellMoved(before, after) {
  const where = `${formatTime(after.datetime)}${after.calendar === before.calendar ? "" : ` on ${after.calendar}`}`;
  say("");
  notify(`Moved to ${where}.`, {
    label: "Undo",
    run: () => move({ id: after.id, version: after.version, datetime: after.datetime, calendar: after.calendar }, { at: Date.parse(before.datetime), calendar: before.calendar }),
  });
}

async function open(id) {
  try {
    const done = await openOrder(id, calendars());
    if (done?.action === "move") tellMoved(done.before, done.after);
    if (done?.action === "cancel") notify(`Order ${id} is cancelled.`);
    if (done?.action === "reinstate") notify(`Order ${id} is reinstated.`);
    if (done) refresh();
    else refreshIfStale();
  } catch (error) {
    refusal(error);
    refresh();
  }
}

async function create(at, calendar) {
  try {
    const order = await openNewOrder(at, calendar, calendars());
    if (order) notify(`Order ${order.id} is created.`);
    if (order) refresh();
    else refreshIfStale();
  } catch (error) {
    refusal(error);
  }
}

// When a new order is proposed that was not clicked into a gap: next in the first gap that is shown.
function proposal() {
  const now = Math.ceil(Date.now() / QUARTER) * QUARTER;
  const calendar = calendars()[0] ?? "default";
  if (!timeline) return [now, calendar];
  const at = Math.max(now, timeline.from) > timeline.to ? timeline.from : Math.max(now, timeline.from);
  const gap = timeline.free.get(calendar)?.find(([, last]) => last >= at);
  return [gap ? Math.max(gap[0], at) : at, calendar];
}

function isShown({ data: { order, previous } }) {
  if (content.dataset.all) return true;
  return [order, previous].some((state) => state && calendars().includes(state.calendar));
}

// Changes that come together are shown together.
function refreshSoon() {
  timer ??= setTimeout(() => {
    timer = null;
    refresh();
  }, TOGETHER_MS);
}

if (mayWrite) {
  document.getElementById("new-order").addEventListener("click", () => create(...proposal()));
  content.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-open]");
    if (button) open(button.dataset.open);
  });
}
preparePicker(document.getElementById("picker"));
prepare();
scrollToNow();
if (content.dataset.live) {
  const position = content.querySelector("svg.timeline")?.dataset.position ?? content.dataset.position;
  follow(Number(position), (change) => isShown(change) && refreshSoon());
}
// The current time, and what no change announces, such as a calendar's spacing.
setInterval(() => document.visibilityState === "visible" && refresh(), AGAIN_MS);
