"""The process of the cluster, one per cluster or namespace: decides which pod converts when.

What will live here, from the next release on: watching StorageFormats, FormatStates, pods and
claims; ``decide(spec, observed)``, a pure function; permits written into ``FormatState.spec``;
evictions; ``StorageFormat.status`` and its conditions.

What never lives here: anything that reads or writes a database, and so ``format_store``, which this
package must not import, not even through another. Nor the status of a FormatState: that is the
sidecar's report. Nothing here decides over bytes.
"""
