"""The console: pages for people, under ``/console``. It is a client of the public API, called in process."""
