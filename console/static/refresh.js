// Renders parts of the page again, as the server does, after something was changed.
import { formatAll } from "./formats.js";

// A click is lost if its element is replaced between press and release: nothing is returned in between.
let released = null;
document.addEventListener("pointerdown", () => {
  if (released) return;
  released = new Promise((resolve) => {
    const ending = new AbortController();
    const end = () => {
      ending.abort();
      // The click comes first.
      setTimeout(() => {
        released = null;
        resolve();
      });
    };
    for (const name of ["pointerup", "pointercancel"]) {
      window.addEventListener(name, end, { capture: true, signal: ending.signal });
    }
    window.addEventListener("blur", end, { signal: ending.signal }); // of the window; those of fields don't bubble
  });
}, { capture: true });

// Returns elements of a page as the server renders it now. Throws if it can't. Where the page has no such elements, as
// when the session has ended, the visitor's page is loaded again, and nothing is returned.
export async function readParts(ids, address = location.href) {
  const answer = await fetch(address, { headers: { Accept: "text/html" } });
  if (answer.status >= 500) throw new Error(`The page can't be shown anew: status ${answer.status}.`);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const parts = ids.map((id) => page.getElementById(id));
  if (answer.redirected || parts.includes(null)) {
    location.reload();
    return new Promise(() => {});
  }
  for (const part of parts) formatAll(part);
  while (released) await released;
  return parts;
}

// Replaces the elements with these ids by those of the page as it is now.
export async function refresh(...ids) {
  for (const element of await readParts(ids)) {
    const stale = document.getElementById(element.id);
    const focused = stale.contains(document.activeElement) ? document.activeElement : null;
    for (const { id } of stale.querySelectorAll("details[open]")) element.querySelector(`#${id}`)?.setAttribute("open", "");
    stale.replaceWith(element);
    if (focused) (element.querySelector(`[data-action="${focused.dataset.action}"]`) ?? document.getElementById("main")).focus();
  }
}
