// Sends a file to POST /imports, with the progress of its upload, which only XMLHttpRequest knows.
import { Problem, showProblem } from "./api.js";
import { formatNumber } from "./formats.js";
import { refresh } from "./refresh.js";

const TYPES = { csv: "text/csv", ndjson: "application/x-ndjson", jsonl: "application/x-ndjson", json: "application/json" };
const form = document.getElementById("import");
const drop = document.getElementById("drop");
const progress = document.getElementById("progress");
const step = document.getElementById("step");
const result = document.getElementById("result");

function say(text, part) {
  progress.hidden = false;
  step.textContent = text;
  const bar = progress.querySelector("progress");
  if (part === undefined) bar.removeAttribute("value");
  else bar.value = part;
}

// Sends a file; resolves with the answer's JSON, or rejects with a Problem.
function send(file, isCheck, reason) {
  const query = new URLSearchParams({ dry_run: isCheck, file_name: file.name.slice(0, 200) });
  const request = new XMLHttpRequest();
  request.open("POST", `/console/api/imports?${query}`);
  request.setRequestHeader("Content-Type", TYPES[file.name.split(".").pop().toLowerCase()] ?? "application/json");
  request.setRequestHeader("Accept", "application/json");
  if (reason) request.setRequestHeader("Change-Reason", encodeURIComponent(reason));
  request.upload.onprogress = (event) => say("Uploading", event.loaded / event.total);
  request.upload.onload = () => say(isCheck ? "Checking" : "Checking and storing");
  return new Promise((resolve, reject) => {
    request.onerror = () =>
      reject(new Problem(0, { detail: "The service can't be reached. Send the file again: it is never imported twice." }));
    request.onload = () => {
      let data;
      try {
        data = JSON.parse(request.responseText);
      } catch {
        data = { title: `Status ${request.status}` };
      }
      if (request.status < 300) resolve(data);
      else reject(new Problem(request.status, data));
    };
    request.send(file);
  });
}

function show(answer) {
  result.className = "done";
  const orders = `${formatNumber(answer.orders)} ${answer.orders === 1 ? "order" : "orders"}`;
  if (answer.imported_before) result.textContent = `This file was imported before: ${orders}. Nothing was stored.`;
  else if (answer.imported_at === null) result.textContent = `No faults: ${orders} can be imported. Nothing was stored yet.`;
  else result.textContent = `Imported ${orders}.`;
  result.hidden = false;
}

// Faults of a file as a table, and as JSON to keep.
function showFaults(problem) {
  const faults = problem.errors ?? [];
  showProblem(result, new Problem(problem.status, { ...problem, errors: undefined }));
  if (faults.length < 2) return; // the detail says where the only one is
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const title of ["Where", "What is wrong"]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = title;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const fault of faults) {
    const row = body.insertRow();
    const place = fault.pointer ?? fault.parameter ?? fault.header ?? "";
    row.insertCell().textContent = fault.line === undefined ? place : `line ${fault.line} · ${place}`;
    row.insertCell().textContent = fault.detail;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(problem, null, 2)], { type: "application/json" }));
  link.download = "faults.json";
  link.textContent = "Keep this report (JSON)";
  const scroll = document.createElement("div");
  scroll.className = "scroll";
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Faults");
  scroll.append(table);
  result.append(link, scroll);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const isCheck = event.submitter?.value === "check";
  const buttons = form.querySelectorAll("button");
  for (const button of buttons) button.disabled = true;
  result.hidden = true;
  say("Uploading", 0);
  try {
    show(await send(form.elements.file.files[0], isCheck, form.elements.reason.value.trim()));
    if (!isCheck) await refresh("imports");
  } catch (error) {
    if (error instanceof Problem) showFaults({ status: error.status, ...error.problem });
    else showProblem(result, error);
  } finally {
    progress.hidden = true;
    for (const button of buttons) button.disabled = false;
    result.focus();
  }
});

for (const name of ["dragover", "dragenter"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) form.elements.file.files = event.dataTransfer.files;
});
