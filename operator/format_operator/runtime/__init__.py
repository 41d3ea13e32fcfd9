"""What the processes of every role are made of: log, clock, credentials, ``/metrics``, and kopf in a thread.

What never lives here: anything that knows a role, a StorageFormat or a database.
"""
