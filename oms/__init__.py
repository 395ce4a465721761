"""``oms``: one command line for the people who run the service, and for those who build on it."""
