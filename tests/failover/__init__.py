"""Failover under load: ``make failover``. See ``tests/failover/__main__.py``."""
