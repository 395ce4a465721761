// Follows the changes of orders while the page is visible, from the position that it was rendered at.
//
// A browser opens at most six HTTP/1.1 connections to a host, so pages that nobody sees hold none: a page that
// is seen again asks for everything after the last position that it knows, and misses nothing.
const TYPES = ["order.created", "order.updated", "order.cancelled", "order.reinstated", "order.deleted"];
const HIDDEN_MS = 30_000;
const AGAIN_MS = 2_000;

// Calls `onChange(change, position)` for each change after a position, in order, each once.
// `change` is a CloudEvent: {type, subject, time, sequence, actor, reason, data: {order, previous}}.
export function follow(after, onChange) {
  let position = after;
  let source = null;
  let timer = null;
  const state = document.getElementById("live");

  function show(name, text) {
    state.hidden = false;
    if (state.dataset.state === name) return;
    state.dataset.state = name;
    state.textContent = text;
  }

  function open() {
    if (source) return;
    source = new EventSource(`/console/api/order-changes/stream?after=${position}`);
    source.onopen = () => show("live", "Live");
    for (const type of TYPES) source.addEventListener(type, receive);
    source.onerror = () => {
      show("away", "Reconnecting");
      if (source.readyState === EventSource.CLOSED) {
        close();
        timer = setTimeout(recover, AGAIN_MS);
      }
    };
  }

  function receive(event) {
    const next = Number(event.lastEventId);
    if (next <= position) return;
    position = next;
    onChange(JSON.parse(event.data), position);
  }

  function close() {
    source?.close();
    source = null;
  }

  // The browser gave up, for an answer that was no stream: the session ended, its key lost a scope, the log no
  // longer goes back that far, or the service is starting. All but the last are mended by loading the page again.
  async function recover() {
    try {
      const answer = await fetch(`/console/api/order-changes?after=${position}&limit=1`);
      if ([400, 401, 403, 410].includes(answer.status)) location.reload();
      else open();
    } catch {
      timer = setTimeout(recover, AGAIN_MS);
    }
  }

  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.visibilityState === "visible") open();
    else timer = setTimeout(close, HIDDEN_MS);
  });
  open();
}
