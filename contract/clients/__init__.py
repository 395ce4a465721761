"""Clients that public generators make of the contract, and one journey with each: ``make contract``."""
