// Local times of the page's zone, as <input type="datetime-local"> has them, and the moments that they name.
const fields = ["year", "month", "day", "hour", "minute", "second", "fractionalSecond"];
const formats = new Map();

function formatOf(zone) {
  if (!formats.has(zone)) {
    formats.set(zone, new Intl.DateTimeFormat("en-US", {
      timeZone: zone, hourCycle: "h23", calendar: "gregory", numberingSystem: "latn", year: "numeric",
      month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3,
    }));
  }
  return formats.get(zone);
}

export const pageZone = () => document.body.dataset.zone;

// Returns a moment (milliseconds) as a local time: "2030-06-01T14:00", with seconds only if there are some.
export function localText(at, zone = pageZone()) {
  const part = Object.fromEntries(formatOf(zone).formatToParts(at).map(({ type, value }) => [type, value]));
  const [year, month, day, hour, minute, second, fraction] = fields.map((name) => part[name]);
  const rest = fraction !== "000" ? `:${second}.${fraction}` : second !== "00" ? `:${second}` : "";
  return `${year.padStart(4, "0")}-${month}-${day}T${hour}:${minute}${rest}`;
}

// How far local times are ahead of UTC at a moment, in milliseconds.
export function offsetAt(at, zone = pageZone()) {
  return Date.parse(`${localText(at, zone)}Z`.replace(/T(\d\d:\d\d)Z$/, "T$1:00Z")) - at;
}

// Returns the moments that a local time names: one; none, where clocks are put forward; two, where they are put
// back, the earlier first.
export function momentsOf(text, zone = pageZone()) {
  const wanted = Date.parse(`${/T\d\d:\d\d$/.test(text) ? `${text}:00` : text}Z`);
  if (Number.isNaN(wanted)) return [];
  const day = 24 * 3600 * 1000;
  const offsets = new Set([offsetAt(wanted - day, zone), offsetAt(wanted + day, zone)]);
  return [...offsets].map((offset) => wanted - offset).filter((at) => at + offsetAt(at, zone) === wanted).sort((a, b) => a - b);
}

// Writes an offset: "UTC+02:00".
export function offsetText(at, zone = pageZone()) {
  const minutes = Math.round(offsetAt(at, zone) / 60000);
  const two = (value) => String(value).padStart(2, "0");
  return `UTC${minutes < 0 ? "−" : "+"}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
}

export const instantText = (at) => new Date(at).toISOString();
