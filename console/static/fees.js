// Fees: says how old the figures are, and replaces them when there are newer ones.
import { formatAll } from "./formats.js";
import { follow } from "./live.js";
import { readParts } from "./refresh.js";

const PAUSE_MS = 1_000;
const POLL_MS = 15_000;
const units = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "always" });
let figures = document.getElementById("figures");

// How far the service's clock is ahead of this one's when the page was made: ages are by the service's clock.
let ahead = 0;

function showAge() {
  const age = document.getElementById("age");
  if (!age) return;
  const seconds = Math.max(0, Math.round((Date.now() + ahead - Date.parse(age.dataset.time)) / 1_000));
  const [unit, size] = units.find(([, size]) => seconds >= size) ?? units.at(-1);
  const time = age.querySelector("time");
  if (time) age.title = `${time.textContent} (${time.title})`;
  age.textContent = relative.format(-Math.floor(seconds / size), unit);
}

function begin() {
  const age = document.getElementById("age");
  if (age) ahead = Date.parse(age.dataset.now) - Date.now();
  formatAll(figures);
  showAge();
}

let wanted = 0;
let isBusy = false;

// Reads this page again until its figures include the last change that is known, one request at a time.
async function refresh() {
  if (isBusy) return;
  isBusy = true;
  try {
    while (wanted > Number(figures.dataset.position)) {
      const address = new URL(location.href);
      for (const name of ["order", "version", "after_version"]) address.searchParams.delete(name);
      address.searchParams.set("min_position", wanted);
      address.searchParams.set("wait", 5);
      const [newer] = await readParts(["figures"], address);
      if (Number(newer.dataset.position) >= Number(figures.dataset.position)) {
        figures.replaceWith(newer);
        figures = newer;
        begin();
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  } catch {
    // The service can't be reached: the next change, or the next poll, tries again.
  } finally {
    isBusy = false;
  }
}

function announce(position) {
  wanted = Math.max(wanted, position);
  if (wanted <= Number(figures.dataset.position)) return;
  if (figures.dataset.refresh === "yes") refresh();
  else document.getElementById("newer").hidden = false;
}

async function poll() {
  if (document.visibilityState !== "visible") return;
  try {
    const answer = await fetch("/console/api/fee-summaries?limit=1");
    if (answer.ok) announce((await answer.json()).as_of.position);
  } catch {
    // As above.
  }
}

if (figures) {
  begin();
  setInterval(showAge, 1_000);
  if (figures.dataset.follow === "changes") follow(Number(figures.dataset.position), (_, position) => announce(position));
  else setInterval(poll, POLL_MS);
}
