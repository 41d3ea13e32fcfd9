"""``kubectl storageformat``: what a person at a terminal sees of rollouts, and does about them.

It speaks to the cluster through the ``kubectl`` that started it, one process per request: whatever way there is into a
cluster (contexts, exec plugins, proxies, impersonation), ``kubectl`` knows it already, and this stays plain Python that
runs from a zip file with nothing installed beside it.

    app               arguments, and which command they mean; imports that command alone
    kube, problems    requests through kubectl; errors as one line each
    overview          what is known of a StorageFormat, its pods and its backups (pure)
    screen, terminal  that as text (pure)
    watching          the same objects as the API server tells of their changes
    fleet             commands run in many sidecars at once
    redact, redact_pods   what may leave the cluster in a support bundle (pure)
    status, plan, rollout, backups, logs, bundle, complete    one command each

What never lives here: ``format_store``, kopf, the kubernetes client, anything a role needs; a decision about bytes. The
plugin reads, patches a StorageFormat's spec as its user would, and runs ``storageformat`` in sidecars.
"""
