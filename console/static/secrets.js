// Shows a secret once. It is in the dialog only, and is gone from it when that is closed or the page is left.

const dialog = document.getElementById("secret");
const shown = dialog?.querySelector("[data-secret]");
const copied = dialog?.querySelector("[data-copied]");
const usage = dialog?.querySelector("[data-usage]");
const example = usage?.querySelector("pre");

dialog?.querySelector("[data-copy]").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(shown.textContent);
    copied.textContent = "Copied.";
  } catch {
    // Browsers allow it only to pages that came over TLS or from this machine, and people can forbid it.
    getSelection().selectAllChildren(shown);
    copied.textContent = "Selected: copy it with Ctrl+C or ⌘C.";
  }
});

function drop() {
  shown.textContent = "";
  example.textContent = "";
  copied.textContent = "";
}
addEventListener("pagehide", () => dialog && drop());

// Resolves when the dialog is closed.
export function showSecret({ title, warning, secret, curl }) {
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector("[data-warning]").textContent = warning;
  shown.textContent = secret;
  usage.hidden = !curl;
  example.textContent = curl ?? "";
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      drop();
      resolve();
    }, { once: true });
    dialog.showModal();
  });
}
