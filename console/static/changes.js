// Changes appear as they happen, above those that the page was rendered with.
import { follow } from "./live.js";
import { fillDetails } from "./differences.js";
import { formatNumber, timeElement } from "./formats.js";

const list = document.getElementById("changes");
const FRESH_MS = 2_500;
const BADGES = { created: "good", updated: "accent", cancelled: "warn", reinstated: "good", deleted: "bad" };

function matches(change) {
  const { type, calendar, actor, order } = list.dataset;
  const calendars = [change.data.order?.calendar, change.data.previous?.calendar];
  return (
    (!type || type === change.type) &&
    (!calendar || calendars.includes(calendar)) &&
    (!actor || actor === change.actor) &&
    (!order || order === change.subject)
  );
}

function show(change, position) {
  document.getElementById("positions").hidden = false;
  for (const latest of document.querySelectorAll(".latest")) latest.textContent = formatNumber(position);
  if (!matches(change)) return;
  const row = document.getElementById("row").content.firstElementChild.cloneNode(true);
  const part = (name) => row.querySelector(`.${name}`);
  const address = `/console/orders/${encodeURIComponent(change.subject)}`;
  const type = change.type.replace("order.", "");
  row.dataset.position = position;
  part("time").href = `${address}#change-${position}`;
  part("time").append(timeElement(change.time, "second"));
  part("position").textContent = position;
  part("badge").textContent = type;
  part("badge").classList.add(BADGES[type]);
  part("link").href = address;
  part("link").textContent = `Order ${change.subject}`;
  part("calendar").textContent = (change.data.order ?? change.data.previous).calendar;
  fillDetails(part("details"), change);
  part("actor").textContent = change.actor ?? "not recorded";
  if (change.reason) part("reason").textContent = change.reason;
  else part("reason").remove();
  list.prepend(row);
  setTimeout(() => row.classList.remove("fresh"), FRESH_MS);
  // A page that is left open keeps no more than this: what it drops is on the older pages.
  if (list.childElementCount > Number(list.dataset.rows)) dropOldest();
  document.getElementById("empty")?.remove();
}

function dropOldest() {
  while (list.childElementCount > Number(list.dataset.rows)) list.lastElementChild.remove();
  const first = list.lastElementChild.dataset.position;
  document.getElementById("first").textContent = formatNumber(first);
  document.getElementById("begin")?.remove();
  const older = document.getElementById("older");
  const address = new URL(older.href);
  address.searchParams.set("before", first);
  older.href = address;
  older.hidden = false;
}

if (list && "live" in list.dataset) follow(Number(list.dataset.position), show);
