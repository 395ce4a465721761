// An order's page: a new version appears when there is one, and the order is cancelled, reinstated or edited.
import { call, notify } from "./api.js";
import { ask } from "./dialogs.js";
import { follow } from "./live.js";
import { readParts } from "./refresh.js";

const AGAIN_MS = 2_000;

const page = () => document.getElementById("order");
const path = `/orders/${page().dataset.id}`;

// Replaces what is shown by what the server renders now. Changes that come meanwhile need one more time only.
let isRefreshing = false;
let isStale = false;
async function refresh() {
  isStale = true;
  if (isRefreshing) return;
  isRefreshing = true;
  try {
    while (isStale) {
      isStale = false;
      await load();
    }
  } catch {
    setTimeout(refresh, AGAIN_MS); // the service can't be reached
  } finally {
    isRefreshing = false;
  }
}

async function load() {
  const [rendered] = await readParts(["order"]);
  const known = new Set([...page().querySelectorAll(".versions > li")].map((version) => version.id));
  for (const version of rendered.querySelectorAll(".versions > li")) version.classList.toggle("fresh", !known.has(version.id));
  const focused = document.activeElement?.closest("#order") && document.activeElement.textContent;
  page().replaceWith(rendered);
  // Whoever uses the keyboard stays where they were.
  if (focused) [...page().querySelectorAll("a, button")].find((each) => each.textContent === focused)?.focus();
}

const DIALOGS = {
  cancel: (form, headers) => call("POST", `${path}/cancel`, { headers, body: reasonOf(form) }),
  reinstate: (form, headers) => call("POST", `${path}/reinstate`, { headers, body: reasonOf(form) }),
  edit(form, headers, before) {
    const changed = {};
    const { totalfee, reference, reason } = form.elements;
    if (totalfee.value !== before.fee) changed.totalfee = Number(totalfee.value.trim() || NaN);
    if (reference.value !== before.reference) changed.reference = reference.value || null;
    if (!Object.keys(changed).length) return null;
    const why = reason.value.trim() && { "Change-Reason": encodeURIComponent(reason.value.trim()) };
    return call("PATCH", path, { headers: { ...headers, ...why }, body: changed });
  },
};
const DONE = { cancel: "The order is cancelled.", reinstate: "The order is reinstated.", edit: "The order is saved." };

const reasonOf = (form) => (form.elements.reason.value.trim() ? { reason: form.elements.reason.value.trim() } : {});

document.addEventListener("click", async (event) => {
  const name = event.target.closest("[data-dialog]")?.dataset.dialog;
  if (!name) return;
  const dialog = document.getElementById(name);
  // The version that the visitor saw: if there is another by then, the API refuses.
  const before = { ...page().dataset };
  const { totalfee, reference } = dialog.querySelector("form").elements;
  if (totalfee) totalfee.value = before.fee;
  if (reference) reference.value = before.reference;
  const done = await ask(dialog, (form) => DIALOGS[name](form, { "If-Match": before.tag }, before));
  if (!done) return;
  dialog.querySelector("form").reset();
  if (done.status) notify(DONE[name]);
  refresh();
});

const { position, id } = page().dataset;
if (position) follow(Number(position), (change) => change.subject === id && refresh());
