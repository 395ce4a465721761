"""Lists of orders: their filters, the index each page is read from, counts, exports, and the routes."""
