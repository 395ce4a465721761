// The dialogs of the schedule: an order, a new order, and a move that was refused.
import { newIdempotencyKey, notify, Problem } from "./api.js";
import { ask } from "./dialogs.js";
import { formatFee, formatTime, timeElement } from "./formats.js";
import { changeStatus, createOrder, everyItem, moveOrder, readOrder } from "./orders.js";
import { localText, momentsOf, offsetText, pageZone } from "./zones.js";

const element = (id) => document.getElementById(id);

function button(label, run) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = label;
  made.addEventListener("click", run);
  return made;
}

// The field of a local time: says which moment it names, and asks where clocks make that two.
class TimeField {
  constructor(form) {
    this.input = form.elements.at;
    this.note = form.querySelector("[data-clock]");
    this.input.addEventListener("input", () => this.read());
  }

  set(at) {
    this.input.value = localText(at);
    this.read(momentsOf(this.input.value).indexOf(at));
  }

  read(which = 0) {
    const moments = momentsOf(this.input.value);
    const zone = pageZone();
    this.choice = null;
    this.input.setCustomValidity("");
    if (moments.length === 2) {
      this.choice = document.createElement("select");
      this.choice.append(...moments.map((at, index) => new Option(`${index ? "the second" : "the first"}, ${offsetText(at)}`, index, false, index === which)));
      const label = document.createElement("label");
      label.append("Clocks are put back, so this time comes twice ", this.choice);
      this.note.replaceChildren(label);
    } else if (moments.length) {
      this.note.textContent = `In ${zone}, ${offsetText(moments[0])}.`;
    } else {
      this.note.textContent = `In ${zone}.`;
      if (this.input.value) this.input.setCustomValidity(`Clocks are put forward: ${zone} has no such time.`);
    }
  }

  get at() {
    return momentsOf(this.input.value)[Number(this.choice?.value ?? 0)];
  }
}

const timeFields = new Map();

function timeField(form) {
  if (!timeFields.has(form)) timeFields.set(form, new TimeField(form));
  return timeFields.get(form);
}

function offerCalendars(select, calendars, chosen) {
  const names = [...new Set([...calendars, chosen])];
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}

// Shows the free datetimes that a refusal names, as buttons.
function offerNearest(box, problem, choose) {
  const nearest = Object.values(problem?.nearest ?? {}).filter(Boolean);
  box.replaceChildren(...nearest.map((text) => button(`Take ${formatTime(text, "day")}, ${formatTime(text, Date.parse(text) % 60000 ? "second" : "clock")}`, () => choose(Date.parse(text)))));
  box.hidden = !nearest.length;
  return nearest.map((text) => Date.parse(text));
}

// In a dialog with the field of a local time, a button takes the datetime and sends the form again.
function offerNearestInForm(form, signal) {
  const box = form.querySelector("[data-nearest]");
  box.hidden = true;
  form.addEventListener("refused", ({ detail }) => {
    offerNearest(box, detail.problem, (at) => {
      timeField(form).set(at);
      form.requestSubmit(form.querySelector("[value=move], [value=create]"));
    });
  }, { signal });
}

// What a write that somebody came before is told.
export function saysChangedMeanwhile(error, id) {
  if (error instanceof Problem && error.status === 412) {
    notify(`Somebody changed order ${id} meanwhile, so nothing was changed now. The page shows it as it is.`);
    return true;
  }
  return false;
}

// Opens an order; returns what was done: {action, before, after}, or null. `pending` is where it might go.
export async function openOrder(id, calendars) {
  const order = await readOrder(id);
  const dialog = element("order");
  const form = dialog.querySelector("form");
  const booked = order.status === "booked";
  dialog.querySelector("h2").textContent = `Order ${order.id}`;
  const facts = {
    datetime: timeElement(order.datetime, Date.parse(order.datetime) % 60000 ? "second" : "minute"),
    calendar: order.calendar,
    services: order.services.map(({ name }) => name).join(", "),
    totalfee: formatFee(order.totalfee),
    reference: order.reference ?? "–",
    status: order.status,
  };
  for (const [name, fact] of Object.entries(facts)) dialog.querySelector(`[data-fact=${name}]`).replaceChildren(fact);
  for (const each of dialog.querySelectorAll("[data-booked]")) each.hidden = !booked;
  dialog.querySelector("[data-cancelled]").hidden = booked;
  dialog.querySelector("[data-history]").href = `/console/orders/${order.id}`;
  form.elements.at.disabled = form.elements.calendar.disabled = !booked;
  form.querySelector("[data-clock]").hidden = !booked;
  form.elements.reason.value = "";
  timeField(form).set(Date.parse(order.datetime));
  offerCalendars(form.elements.calendar, calendars, order.calendar);
  const ending = new AbortController();
  offerNearestInForm(form, ending.signal);
  let done = null;
  await ask(dialog, async (_, submitter) => {
    const action = submitter?.value ?? (booked ? "move" : "reinstate");
    const reason = form.elements.reason.value;
    try {
      const after = action === "move"
        ? await moveOrder(order, { at: timeField(form).at, calendar: form.elements.calendar.value }, reason)
        : await changeStatus(order, action, reason);
      done = { action, before: order, after };
    } catch (error) {
      if (!saysChangedMeanwhile(error, id)) throw error;
      done = { action: "missed" };
    }
  });
  ending.abort();
  return done;
}

let services = null;

async function offerServices(form) {
  services ??= await everyItem("/services?limit=100");
  const box = form.querySelector("[data-services]");
  box.replaceChildren(...services.map(({ id, name }) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "checkbox";
    input.name = "service";
    input.value = id;
    label.append(input, " ", name);
    return label;
  }));
  if (services.length) return;
  services = null;
  box.textContent = "There is no service yet. POST /services makes one.";
}

// Opens the form of a new order, for a moment of a calendar; returns the order, or null.
export async function openNewOrder(at, calendar, calendars) {
  const dialog = element("create");
  const form = dialog.querySelector("form");
  form.reset();
  await offerServices(form);
  timeField(form).set(at);
  offerCalendars(form.elements.calendar, calendars, calendar);
  const ending = new AbortController();
  offerNearestInForm(form, ending.signal);
  let key = newIdempotencyKey();
  let created = null;
  await ask(dialog, async () => {
    const chosen = [...form.querySelectorAll("[name=service]:checked")].map(({ value }) => ({ id: value }));
    if (!chosen.length) throw new Problem(422, { detail: "Choose at least one service." });
    const reference = form.elements.reference.value;
    const body = {
      datetime: new Date(timeField(form).at).toISOString(),
      calendar: form.elements.calendar.value,
      totalfee: Number(form.elements.fee.value.replace(",", ".")),
      services: chosen,
      ...(reference ? { reference } : {}),
    };
    try {
      created = await createOrder(body, key);
    } catch (error) {
      // An answer says that nothing was stored, so what is sent next is another order. Without one, it may be stored.
      if (error.status && error.status < 500) key = newIdempotencyKey();
      throw error;
    }
  });
  ending.abort();
  return created;
}

// Shows why a move was refused beside the timeline, whose places can be clicked too; `choose(at)` takes one.
// Returns the datetimes that are offered.
export function showRefusal(problem, choose, close) {
  const dialog = element("refused");
  const ending = new AbortController();
  const { signal } = ending;
  dialog.querySelector("[data-detail]").textContent = problem.detail || problem.title;
  const offered = offerNearest(dialog.querySelector("[data-nearest]"), problem, choose);
  dialog.querySelector(".hint").hidden = !offered.length;
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close(), { signal });
  addEventListener("keydown", (event) => event.key === "Escape" && dialog.close(), { signal });
  dialog.addEventListener("close", () => {
    ending.abort();
    close();
  }, { signal });
  // Not modal: the timeline stays within reach.
  dialog.show();
  return offered;
}
