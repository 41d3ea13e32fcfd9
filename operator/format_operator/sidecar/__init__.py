"""The process beside the app: it recovers and converts the pod's databases before the app starts, and reports.

What lives here, from the outside in:

* ``supervisor``: PID 1, keeps the worker running, by its ``heartbeat``. ``app``: the worker, put together in one place.
* ``gate_server``, ``http``, ``watch``, ``kube``: its doors to the gate, Prometheus and the API server.
* ``knowledge``, ``mailbox``, ``poller``: what is known of the API's objects, newest first.
* ``observed`` → ``permits`` → ``judgement`` → ``decide``: what is to be done, pure functions of what was seen.
* ``reconciler``: the loop, one per database argument. ``databases`` looks, ``work`` does, ``memory`` remembers.
* ``store``: the one door to ``format_store``, and the one thread that goes through it.
* ``announcer``, ``status``, ``report``: what is said, in the FormatState with as few writes as possible.

What never lives here: SQLite, renames, fsyncs (``format_store`` does that), writes to any object but the pod's
own FormatState, and decisions about bytes that are taken from a status.
"""
