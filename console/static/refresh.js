// Renders parts of the page again, as the server does, after something was changed.
import { formatAll } from "./formats.js";

// Replaces the elements with these ids by those of the page as it is now.
export async function refresh(...ids) {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = ids.map((id) => page.getElementById(id));
  if (answer.redirected || !answer.ok || fresh.includes(null)) return location.reload();
  for (const element of fresh) {
    formatAll(element);
    const stale = document.getElementById(element.id);
    const focused = stale.contains(document.activeElement) ? document.activeElement : null;
    for (const { id } of stale.querySelectorAll("details[open]")) element.querySelector(`#${id}`)?.setAttribute("open", "");
    stale.replaceWith(element);
    if (focused) (element.querySelector(`[data-action="${focused.dataset.action}"]`) ?? document.getElementById("main")).focus();
  }
}
