"""What goes wrong here, in one place."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """The cluster did not do what was asked of it; the message holds the end of the log."""


class ClusterUnavailable(RuntimeError):
    """This machine cannot run a cluster; the message says what would enable it."""
