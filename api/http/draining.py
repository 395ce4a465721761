"""Draining: from SIGTERM on, this process asks its callers to go elsewhere, while it still serves them.

``/health/ready`` answers 503 then, and every answer closes its connection (RFC 9112, section 9.6): the next
request comes on another one, which a load balancer opens to another instance.
"""

from __future__ import annotations


class Drain:
    """Whether this process drains."""

    has_begun = False

    def begin(self) -> None:
        """Begin; there is no way back."""
        self.has_begun = True


DRAIN = Drain()
"""This process's."""
