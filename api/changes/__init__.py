"""The change log over HTTP: the feed, an order's history, and the live stream."""
