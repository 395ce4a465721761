// Every page: times and numbers in the browser's formats, and the browser's zone for the next page.
import { formatAll } from "./formats.js";

document.documentElement.classList.add("scripted");
formatAll(document);

// Pages are rendered in this zone. Only the first page of a visitor is rendered in the service's, and again.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone && document.body.dataset.zone !== zone) {
  const known = document.cookie.includes(`oms-zone=${zone}`);
  document.cookie = `oms-zone=${zone}; Path=/console; Max-Age=31536000; SameSite=Strict`;
  if (!known && document.cookie.includes("oms-zone=")) location.reload();
}
