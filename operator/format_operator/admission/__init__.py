"""The mutating webhook: puts sidecar and gate into pods that ask for them.

What belongs here: deciding what a pod gets (``inject``, ``places``: pure), answering the API server, and the
certificate that it is answered with. What never does: the store, a watch, anything that is decided about a database.
A pod that does not ask never gets here: the API server's match conditions see to that.
"""
