// The list of webhooks: add one.
import { call, newIdempotencyKey } from "./api.js";
import { ask } from "./dialogs.js";
import { showSecret } from "./secrets.js";
import { readWebhook, WEBHOOK_SECRET } from "./webhook_form.js";

document.querySelector("[data-action=add]").addEventListener("click", async () => {
  const dialog = document.getElementById("add");
  dialog.querySelector("form").reset();
  const headers = { "Idempotency-Key": newIdempotencyKey() };
  const added = await ask(dialog, (form) => call("POST", "/webhooks", { body: readWebhook(form), headers }));
  if (!added) return;
  await showSecret({ title: "The webhook's secret", warning: WEBHOOK_SECRET, secret: added.data.secret });
  location.assign(`/console/webhooks/${added.data.id}`);
});
