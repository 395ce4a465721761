// Reads the page again every few seconds while it is visible, and shows what changed.
import { readParts } from "./refresh.js";

const AGAIN_MS = 5_000;

async function refresh() {
  if (document.visibilityState === "visible") {
    try {
      const [next] = await readParts(["health"]);
      const shown = document.getElementById("health");
      if (!shown.contains(document.activeElement)) shown.replaceWith(next);
    } catch {
      // The service can't be reached; the time on the page says how old the figures are.
    }
  }
  setTimeout(refresh, AGAIN_MS);
}
setTimeout(refresh, AGAIN_MS);
