// What a change did to an order, member by member, as elements: the same as console/differences.py and
// templates/changes_parts.html make, for changes that come while a page is open.
import { feeElement, timeElement } from "./formats.js";

const MEMBERS = [
  ["datetime", "Datetime", "time"],
  ["calendar", "Calendar", "text"],
  ["status", "Status", "text"],
  ["totalfee", "Fee", "fee"],
  ["reference", "Reference", "text"],
];
const SHOWN = 6;

// Compares two orders, neither of which is null: services by id, metadata by key.
function differences(previous, order) {
  const all = MEMBERS.filter(([member]) => member in previous && member in order).map(([member, name, kind]) => (
    { name, kind, old: previous[member], new: order[member] }
  ));
  const services = (each) => new Map((each.services ?? []).map((service) => [service.id, service.name]));
  const metadata = (each) => new Map(Object.entries(each.metadata ?? {}).sort(([one], [other]) => (one < other ? -1 : 1)));
  all.push(...elements("Service", services(previous), services(order)));
  all.push(...elements("Metadata", metadata(previous), metadata(order)));
  return all.filter((each) => each.old !== each.new);
}

function elements(name, previous, order) {
  const keys = new Set([...previous.keys(), ...order.keys()]);
  return [...keys].map((key) => ({ name, key, kind: "text", old: previous.get(key) ?? null, new: order.get(key) ?? null }));
}

// Fills a list with what a change did: an update's differences, else what tells the order from others.
export function fillDetails(list, { type, data }) {
  if (type !== "order.updated") {
    const order = data.order ?? data.previous;
    list.append(item(timeElement(order.datetime)), item(feeElement(order.totalfee)));
    list.append(item(text(order.services.map((service) => service.name).join(", "))));
    if (order.reference) list.append(item(text(order.reference)));
    return;
  }
  const all = differences(data.previous, data.order);
  list.append(...all.slice(0, SHOWN).map(difference));
  if (!all.length) list.append(item("nothing but its version"));
  if (all.length > SHOWN) list.append(item(`and ${all.length - SHOWN} more`));
}

function difference(each) {
  const name = create("span", each.name);
  name.className = "name";
  if (each.key) name.append(" ", text(each.key));
  const removed = () => create("del", value(each.kind, each.old));
  const added = () => create("ins", value(each.kind, each.new));
  if (each.old === null) return item(name, " + ", added());
  if (each.new === null) return item(name, " − ", removed());
  return item(name, " ", removed(), " → ", added());
}

function value(kind, it) {
  if (kind === "time") return timeElement(it, "second");
  return kind === "fee" ? feeElement(it) : text(it);
}

function create(tag, ...content) {
  const element = document.createElement(tag);
  element.append(...content);
  return element;
}

const item = (...content) => create("li", ...content);
const text = (it) => create("bdi", String(it));
