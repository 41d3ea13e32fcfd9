"""What every role must agree on: the names, shapes and meanings of the API's objects.

What lives here: ``names``, ``models``, ``formats``, ``sqlite`` and ``statuses`` (the fields, each
described once), ``schema`` (how a description becomes a CRD schema, a parser and a writer),
``texts`` (texts with rules), ``conditions`` and ``crds``.

What never lives here: I/O of any kind, a Kubernetes client, kopf, ``format_store``, or any other
package that is not the standard library. A role can therefore import it at no cost, and a pod that
runs an older release still knows exactly what it meant.
"""
