// Calls the public API: /console/api/orders/223 is /orders/223, with the key of the session.

// A problem (RFC 9457) that the API answered with, or that kept the answer away.
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || "The service did not answer.");
    this.status = status;
    this.problem = problem;
  }
}

// Sends a request; returns {status, headers, data}. `body` is sent as JSON (a merge patch with PATCH).
// Throws a Problem. Without a valid session, the page leads to the sign-in.
export async function call(method, path, { body, headers = {}, signal } = {}) {
  const type = method === "PATCH" && !path.startsWith("/orders/batch") ? "application/merge-patch+json" : "application/json";
  let answer;
  try {
    answer = await fetch(`/console/api${path}`, {
      method,
      signal,
      headers: { Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": type }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "The service can't be reached", detail: "The service can't be reached. Nothing is known about whether this was stored: look before you repeat it." });
  }
  const text = await answer.text();
  let data = null;
  try {
    data = text ? JSON.parse(text) : null;
  } catch {
    throw new Problem(answer.status, { title: `Status ${answer.status}`, detail: "The answer can't be read." });
  }
  if (answer.status === 401) location.assign(`/console/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
  if (!answer.ok) throw new Problem(answer.status, data || { title: `Status ${answer.status}` });
  return { status: answer.status, headers: answer.headers, data };
}

// The key of one attempt of a user to create something: its repetitions create nothing twice.
export const newIdempotencyKey = () => crypto.randomUUID();

// Shows a problem in an element, in its own words: detail, each fault, and the request id.
export function showProblem(element, error) {
  const problem = error instanceof Problem ? error.problem : { title: "This page failed", detail: String(error) };
  element.replaceChildren(paragraph(problem.detail || problem.title));
  element.className = "problem";
  element.setAttribute("role", "alert");
  element.hidden = false;
  // The detail of a single fault says all of it.
  if (problem.errors && !(problem.errors.length === 1 && problem.detail?.includes(problem.errors[0].detail))) {
    const list = document.createElement("ul");
    for (const fault of problem.errors) {
      const item = document.createElement("li");
      const place = fault.pointer ?? fault.parameter ?? fault.header;
      item.textContent = place ? `${place}: ${fault.detail}` : fault.detail;
      list.append(item);
    }
    element.append(list);
  }
  if (problem.request_id) {
    const line = paragraph(`Request ${problem.request_id}`);
    line.className = "hint";
    element.append(line);
  }
}

function paragraph(text) {
  const element = document.createElement("p");
  element.textContent = text;
  return element;
}

// Says something that needs no answer, to screen readers too. An action has a label and what it runs.
export function notify(text, action = null) {
  const notice = document.createElement("div");
  notice.className = "notice";
  notice.textContent = text;
  if (action) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    button.textContent = action.label;
    button.addEventListener("click", () => {
      notice.remove();
      action.run();
    });
    notice.append(" ", button);
  }
  document.getElementById("notices").append(notice);
  setTimeout(() => notice.remove(), action ? 15_000 : 6_000);
}
