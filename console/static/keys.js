// Keys: make, rotate, revoke.
import { call, newIdempotencyKey, Problem } from "./api.js";
import { ask } from "./dialogs.js";
import { refresh } from "./refresh.js";
import { showSecret } from "./secrets.js";

const actions = {
  async make(dialog) {
    const headers = { "Idempotency-Key": newIdempotencyKey() };
    const made = await ask(dialog, (form) => {
      const fields = new FormData(form);
      const body = { name: fields.get("name").trim(), scopes: fields.getAll("scopes") };
      if (fields.get("expires")) body.expires_at = new Date(fields.get("expires")).toISOString();
      return shownKey(call("POST", "/keys", { body, headers }));
    });
    if (made) await showKey("The new key", made.key);
  },
  async rotate(dialog, row) {
    const headers = { "Idempotency-Key": newIdempotencyKey() };
    const rotated = await ask(dialog, (form) =>
      shownKey(call("POST", `/keys/${row.dataset.key}/rotation`, { body: { overlap: form.elements.overlap.value }, headers })));
    if (rotated) await showKey("The key's new secret", rotated.key);
  },
  async revoke(dialog, row) {
    if (!(await ask(dialog, () => call("DELETE", `/keys/${row.dataset.key}`)))) return;
    if ("own" in row.dataset) document.querySelector("form.visitor").submit();
    else await refresh("keys");
  },
};

document.getElementById("main").addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return;
  const row = button.closest("tr");
  const dialog = document.getElementById(button.dataset.action);
  dialog.querySelector("form").reset();
  if (row) {
    dialog.querySelector("[data-name]").textContent = row.dataset.name;
    dialog.querySelector("[data-own]").hidden = !("own" in row.dataset);
  }
  await actions[button.dataset.action](dialog, row);
});

// A repeat after a lost response shows no key: only its hash is stored.
async function shownKey(request) {
  const { status, data } = await request;
  if (data.key === null) throw new Problem(status, { detail: `${data.name} was stored, but the response with its secret was lost. Load the page again, and rotate the key.` });
  return data;
}

async function showKey(title, key) {
  await showSecret({
    title,
    warning: "Store it now: only its hash is kept, and it is not shown again. Whoever has it can use it.",
    secret: key,
    curl: `curl ${location.origin}/caller \\\n  -H 'Authorization: Bearer ${key}'`,
  });
  await refresh("keys");
}
