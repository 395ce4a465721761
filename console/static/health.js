// Reads the page again every few seconds while it is visible, and shows what changed.
import { formatAll } from "./formats.js";

const AGAIN_MS = 5_000;

async function refresh() {
  if (document.visibilityState === "visible") {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected) return location.reload();
      const next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("health");
      const shown = document.getElementById("health");
      if (next && !shown.contains(document.activeElement)) {
        formatAll(next);
        shown.replaceWith(document.adoptNode(next));
      }
    } catch {
      // The service can't be reached; the time on the page says how old the figures are.
    }
  }
  setTimeout(refresh, AGAIN_MS);
}
setTimeout(refresh, AGAIN_MS);
