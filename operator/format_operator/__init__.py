"""Everything that needs a cluster: the API, the sidecar in each pod, the controller of the cluster.

What lives here is one package per role, and they know little of each other:

* ``api``: names, models and schemas. What all roles share. No I/O, standard library only.
* ``sidecar``: the process beside the app. The one package here that touches databases, through
  ``format_store``.
* ``gate``: the init container that waits for the sidecar's word.
* ``controller``: the process of the cluster. Decides which pod converts when, never touches bytes
  and never imports ``format_store``.

What never lives here: anything that reads or writes a database file. That is ``format_store``,
which in turn knows nothing of Kubernetes.
"""

from __future__ import annotations

__version__ = "0.1.0"
