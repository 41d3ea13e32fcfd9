"""Engines: what a format means for the bytes of a file, how to build one from another, how to verify it.

An engine knows SQL and rows. It knows nothing of locks, leases, fsync or the swap, which are the same for
every engine, and it never touches the primary: it reads the source and writes the staging copy.
"""
