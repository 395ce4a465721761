// Shows <time> and <data> elements in the browser's language; the zone is the page's.
const styles = {
  minute: { dateStyle: "medium", timeStyle: "short" },
  second: { dateStyle: "medium", timeStyle: "medium" },
  day: { weekday: "short", day: "numeric", month: "short" },
  clock: { timeStyle: "short" },
};
const formats = new Map();

function timeFormat(style, timeZone) {
  const key = `${style} ${timeZone}`;
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(undefined, { ...styles[style], timeZone }));
  return formats.get(key);
}

const fees = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const numbers = new Intl.NumberFormat();

// Returns a datetime in the page's zone. Styles: minute, second, day, clock.
export function formatTime(value, style = "minute") {
  return timeFormat(style, document.body.dataset.zone).format(new Date(value));
}

// Fees are texts: a double can't hold the cents of the largest.
export function formatFee(value) {
  return fees.format(String(value));
}

export const formatNumber = (value) => numbers.format(value);

// Makes a <time> element like those that the server renders.
export function timeElement(value, style = "minute") {
  const element = document.createElement("time");
  element.dateTime = value;
  element.title = `${new Date(value).toISOString().replace("T", " ").replace("Z", "")} UTC`;
  element.dataset.style = style;
  element.dataset.zone = document.body.dataset.zone;
  element.textContent = formatTime(value, style);
  return element;
}

// Makes a fee like those that the server renders.
export function feeElement(value) {
  const element = document.createElement("data");
  element.className = "fee";
  element.value = Number(value).toFixed(2);
  element.textContent = formatFee(element.value);
  return element;
}

export function formatAll(root) {
  for (const element of root.querySelectorAll("time[data-style]")) {
    element.textContent = timeFormat(element.dataset.style, element.dataset.zone).format(new Date(element.dateTime));
  }
  for (const element of root.querySelectorAll("data.fee")) element.textContent = fees.format(element.value);
  for (const element of root.querySelectorAll("data.number")) element.textContent = numbers.format(element.value);
}
