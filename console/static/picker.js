// The form that chooses calendars: finds one among many, and keeps to the most that a page shows.
import { everyItem } from "./orders.js";

const MOST = 20;

export function preparePicker(picker) {
  const list = picker.querySelector("fieldset");
  const find = picker.querySelector("#find-calendar");
  const said = picker.querySelector("#picked");
  const options = () => [...list.querySelectorAll("label")];

  function show() {
    const text = find.value.trim().toLowerCase();
    const chosen = list.querySelectorAll("input:checked").length;
    for (const label of options()) {
      const input = label.querySelector("input");
      label.hidden = !input.checked && !label.textContent.toLowerCase().includes(text);
      input.disabled = !input.checked && chosen >= MOST;
    }
    said.textContent = `${chosen} of ${MOST} chosen`;
  }

  async function loadOthers() {
    const { cursor } = picker.dataset;
    if (!picker.open || !cursor) return;
    delete picker.dataset.cursor;
    const known = new Set(options().map((label) => label.querySelector("input").value));
    for (const { name, title } of await everyItem(`/calendars?limit=100&cursor=${encodeURIComponent(cursor)}`)) {
      if (known.has(name)) continue;
      const label = document.createElement("label");
      const input = document.createElement("input");
      Object.assign(input, { type: "checkbox", name: "calendar", value: name });
      label.append(input, ` ${name} ${title ?? ""}`);
      list.append(label);
    }
    show();
  }

  picker.addEventListener("toggle", loadOthers);
  find.addEventListener("input", show);
  // Enter in the field that finds would send the form.
  find.addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
  list.addEventListener("change", show);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && picker.contains(document.activeElement)) {
      picker.open = false;
      picker.querySelector("summary").focus();
    }
  });
  addEventListener("pointerdown", (event) => {
    if (picker.open && !picker.contains(event.target)) picker.open = false;
  });
  show();
}
