"""The process of the cluster, one active per installation: decides which pod converts when.

What lives here, from the outside in:

* ``app``: the process, put together in one place; ``lease``: one active instance.
* ``reconciler``: the loop; ``effects``: the only module that changes anything in the cluster.
* ``watch`` (kopf), ``cluster`` (the client), ``cache``: what is known of the cluster's objects.
* ``facts`` → ``standing`` → ``plan``, ``formatstates`` → ``decide``: what is to be done, pure functions of what was seen;
  ``report``, ``events``: what is said about it, pure as well.

What never lives here: anything that reads or writes a database, and so ``format_store``, which this package must not
import, not even through another. Nor the status of a FormatState: that is the sidecar's report. Nothing here
decides over bytes.
"""
