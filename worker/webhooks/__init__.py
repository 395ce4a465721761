"""Webhooks: changes fanned out to deliveries, and deliveries attempted."""
