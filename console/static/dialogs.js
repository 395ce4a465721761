// Dialogs with a form: <dialog id="…"><form method="dialog">…<div class="problem" hidden></div>…</form></dialog>.
import { showProblem } from "./api.js";

// Opens a dialog; `submit(form)` is awaited when its form is sent, and what it throws is shown in the dialog.
// Returns what `submit` returned, or null if the dialog was closed.
export function ask(dialog, submit) {
  const form = dialog.querySelector("form");
  const problem = dialog.querySelector("[data-problem]");
  problem.hidden = true;
  return new Promise((resolve) => {
    const ending = new AbortController();
    let isSending = false;
    // What a request that was sent returns may be shown only once, such as a secret: no closing meanwhile.
    const stay = (event) => isSending && event.preventDefault();
    dialog.addEventListener("cancel", stay, { signal: ending.signal });
    dialog.addEventListener("keydown", (event) => event.key === "Escape" && stay(event), { signal: ending.signal });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (isSending) return;
      if (event.submitter?.value === "close") return dialog.close();
      const buttons = form.querySelectorAll("button");
      isSending = true;
      for (const button of buttons) button.disabled = true;
      try {
        const result = await submit(form, event.submitter);
        resolve(result ?? true);
        dialog.close();
      } catch (error) {
        showProblem(problem, error);
        form.dispatchEvent(new CustomEvent("refused", { detail: error }));
      } finally {
        isSending = false;
        for (const button of buttons) button.disabled = false;
      }
    }, { signal: ending.signal });
    dialog.addEventListener("close", () => {
      ending.abort();
      resolve(null);
    }, { signal: ending.signal });
    dialog.showModal();
  });
}
