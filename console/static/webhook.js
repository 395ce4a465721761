// One webhook: test, enable, disable, edit, rotate the secret, replay, delete.
import { call, newIdempotencyKey, notify, showProblem } from "./api.js";
import { ask } from "./dialogs.js";
import { refresh } from "./refresh.js";
import { showSecret } from "./secrets.js";
import { readWebhook, WEBHOOK_SECRET } from "./webhook_form.js";

const id = document.getElementById("webhook").dataset.id;
const path = `/webhooks/${id}`;
const outcome = document.getElementById("outcome");
const TEST_POLL_MS = 400;
const TEST_LONGEST_MS = 40_000; // an attempt takes at most 15 s, and waits for the one before it

const actions = {
  test: sendTest,
  enable: () => setEnabled(true),
  disable: () => setEnabled(false),
  async edit(dialog) {
    if (await ask(dialog, (form) => call("PATCH", path, { body: readWebhook(form) }))) location.reload();
  },
  async rotate(dialog) {
    const headers = { "Idempotency-Key": newIdempotencyKey() };
    const rotated = await ask(dialog, (form) => call("POST", `${path}/secret/rotation`, { body: { old_valid_for: Number(form.elements.seconds.value) }, headers }));
    if (!rotated) return;
    await showSecret({ title: "The webhook's new secret", warning: WEBHOOK_SECRET, secret: rotated.data.secret });
    await refresh("webhook");
  },
  async replay(dialog) {
    const replayed = await ask(dialog, (form) => {
      const after = form.elements.which.value === "after";
      return call("POST", `${path}/replay`, { body: after ? { after: Number(form.elements.after.value) } : {} });
    });
    if (!replayed) return;
    const count = replayed.data.deliveries;
    notify(count === 1 ? "1 delivery is due now." : `${count} deliveries are due now.`);
    followList();
  },
  async delete(dialog) {
    if (await ask(dialog, () => call("DELETE", path))) location.assign("/console/webhooks");
  },
};

let busy = false;
document.getElementById("main").addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button || busy) return;
  outcome.hidden = true;
  const dialog = document.getElementById(button.dataset.action);
  dialog?.querySelector("form").reset();
  if (dialog) chooseReplay();
  busy = true;
  try {
    await actions[button.dataset.action](dialog);
  } catch (error) {
    showProblem(outcome, error);
  } finally {
    busy = false;
  }
});

const replay = document.querySelector("#replay form");
function chooseReplay() {
  replay.elements.after.disabled = replay.elements.which.value !== "after";
}
replay.addEventListener("change", chooseReplay);

// Shows what becomes due now, as it is delivered; not while somebody uses the list.
async function followList() {
  for (const pause of [0, 1_000, 2_000, 4_000]) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (!document.getElementById("list").contains(document.activeElement)) await refresh("list");
  }
}

async function setEnabled(enabled) {
  await call("PATCH", path, { body: { enabled } });
  await refresh("webhook", "list");
}

// Sends a test, and follows its delivery until it has ended.
async function sendTest() {
  say("", "The test will be sent within about a second.");
  let { data: delivery } = await call("POST", `${path}/test`);
  const until = Date.now() + TEST_LONGEST_MS;
  while (["pending", "retrying"].includes(delivery.status) && Date.now() < until) {
    await new Promise((resolve) => setTimeout(resolve, TEST_POLL_MS));
    ({ data: delivery } = await call("GET", `${path}/deliveries/${delivery.id}`));
    if (delivery.under_way_since) say("", "The test is under way.");
  }
  await refresh("webhook", "list");
  const shown = document.getElementById(`delivery-${delivery.id}`);
  if (shown) shown.open = true;
  const attempt = delivery.attempts.at(-1);
  if (delivery.status === "delivered") say("good", `The test was delivered: ${attempt.status} in ${attempt.latency_ms} ms.`);
  else if (attempt) say("bad", `The test failed after ${attempt.latency_ms} ms: ${attempt.error}.`);
  else say("warn", "The test has not been sent yet. The worker may be busy, or stopped: see Health. It stays in the list below.");
}

function say(tone, text) {
  outcome.className = `outcome ${tone}`;
  outcome.setAttribute("role", "status");
  outcome.textContent = text;
  outcome.hidden = false;
}
