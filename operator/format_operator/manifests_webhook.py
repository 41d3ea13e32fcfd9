"""The webhook's roles, with the reason for each verb: for ``deploy/`` and for the chart, by ``format_operator.manifests``."""

from __future__ import annotations

from typing import Final

#: Stands for the one Secret, and the one MutatingWebhookConfiguration, of an installation.
NAME: Final = "NAME-OF-THE-WEBHOOK"
_DEPLOYED: Final = "storageformat-webhook"

RULES: Final = """\
rules:
- apiGroups: [$group]
  resources: [$storageformats]
  verbs:
  - get    # where is the database? Asked when a pod names a StorageFormat without a path
# Not given, on purpose: list and watch, and anything about pods: the API server shows those that ask.
"""

CONFIGURATION_RULES: Final = f"""\
# Where the webhook makes its certificate itself: whom the API server trusts. No other configuration.
rules:
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations]
  resourceNames: [{NAME}]
  verbs:
  - get    # is the authority in it? Somebody may have put another one there
  - patch  # its caBundle
"""

SECRET_RULES: Final = f"""\
# The certificate and its key. The Secret is made by whoever installs: `create` cannot be given for one name only.
rules:
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{NAME}]
  verbs:
  - get    # what another instance has made
  - update # with the version that was read: two at once agree on one
"""


def _account(kind: str, name: str) -> str:
    return f"""\
  kind: {kind}
  name: {name}
subjects:
- kind: ServiceAccount
  name: {_DEPLOYED}
  namespace: storageformat-system
"""


def _bound(name: str, rules: str) -> str:
    """A ClusterRole and its binding."""
    return f"""\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {name}
{rules}---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {name}
roleRef:
  apiGroup: rbac.authorization.k8s.io
{_account("ClusterRole", name)}"""


RBAC: Final = (
    f"""\
# What the webhook may do. The Helm chart makes the same for its own ServiceAccount, and the webhook itself.
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {_DEPLOYED}
  namespace: storageformat-system
---
"""
    + _bound(_DEPLOYED, RULES)
    + "---\n"
    + _bound(f"{_DEPLOYED}-configuration", CONFIGURATION_RULES.replace(NAME, _DEPLOYED))
    + f"""\
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {_DEPLOYED}
  namespace: storageformat-system
{SECRET_RULES.replace(NAME, _DEPLOYED)}---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {_DEPLOYED}
  namespace: storageformat-system
roleRef:
  apiGroup: rbac.authorization.k8s.io
{_account("Role", _DEPLOYED)}"""
)
