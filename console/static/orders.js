// Writes orders through the public API, at the version that the visitor saw.
import { call, Problem } from "./api.js";
import { instantText } from "./zones.js";

const because = (reason) => (reason?.trim() ? { "Change-Reason": encodeURIComponent(reason.trim()) } : {});

// Returns an order as it is now, with its entity tag.
export async function readOrder(id) {
  const { data, headers } = await call("GET", `/orders/${id}`);
  return { ...data, tag: headers.get("ETag") };
}

function requireVersion(order, version) {
  if (order.version === version) return;
  throw new Problem(412, { title: "Changed meanwhile", detail: `Order ${order.id} is at version ${order.version}, no longer at ${version}.` });
}

// Moves an order, which has an id and a version, to a moment and a calendar; returns it as it is afterwards.
export async function moveOrder({ id, version }, { at, calendar }, reason) {
  const order = await readOrder(id);
  requireVersion(order, version);
  const body = {};
  if (Date.parse(order.datetime) !== at) body.datetime = instantText(at);
  if (order.calendar !== calendar) body.calendar = calendar;
  if (!Object.keys(body).length) return order;
  const { data } = await call("PATCH", `/orders/${id}`, { body, headers: { "If-Match": order.tag, ...because(reason) } });
  return data;
}

// Cancels or reinstates an order: `action` is "cancel" or "reinstate".
export async function changeStatus(order, action, reason) {
  const { data } = await call("POST", `/orders/${order.id}/${action}`, { headers: { "If-Match": order.tag, ...because(reason) } });
  return data;
}

// Creates an order. The same `key` with the same `body` never creates a second one.
export async function createOrder(body, key) {
  const { data } = await call("POST", "/orders", { body, headers: { "Idempotency-Key": key } });
  return data;
}

// Returns when each calendar is free for an order that is not in its own way.
export async function freeTimes(calendars, from, to, exceptOrder) {
  const query = new URLSearchParams([...calendars.map((name) => ["calendar", name]), ["from", instantText(from)], ["to", instantText(to)], ["except_order", exceptOrder]]);
  return (await call("GET", `/availability?${query}`)).data.items;
}

// Returns every item of a list, page by page.
export async function everyItem(path) {
  const items = [];
  for (let next = path; next;) {
    const { data } = await call("GET", next);
    items.push(...data.items);
    next = data.next;
  }
  return items;
}
