"""HTTP itself: requests, answers, problems, lists and streams. It knows nothing of orders or webhooks."""
