// The form of a webhook, as members of a request.
export function readWebhook(form) {
  const fields = new FormData(form);
  return {
    url: fields.get("url").trim(),
    description: fields.get("description").trim(),
    types: fields.getAll("types"),
    calendars: fields.get("calendars").split(/[\s,]+/).filter(Boolean),
  };
}

export const WEBHOOK_SECRET = "Store it now: it is not shown again. The receiver verifies with it that a request comes from this service.";
