"""The manifests in ``deploy/`` and the files that the Helm chart includes, made from the API package.

``python -m format_operator.manifests`` prints them, ``--write DIRECTORY`` writes them there, and
``--check DIRECTORY`` says whether the files there are what would be written. Where the chart lies
beside that directory, as in the repository, its files are written and checked as well.

The CRDs follow from the models. Roles and admission policy are texts, because the reason beside
each verb is worth as much as the verb; only the names in them are filled in.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

from format_operator import manifests_webhook
from format_operator.api.crds import formatstate_crd, storageformat_crd
from format_operator.api.names import GROUP, PLURAL_FORMATSTATES, PLURAL_STORAGEFORMATS

_GENERATED = "# Made by `python -m format_operator.manifests --write deploy`; change it there.\n"

#: What the chart's templates include, below the repository's root.
CHART_FILES = Path("charts/storageformat-operator/files")

_SIDECAR_RULES = """\
rules:
- apiGroups: [$group]
  resources: [$storageformats]
  verbs:
  - get    # read the one that the sidecar was started for
  - list   # where a watch begins, and begins again after it was cut
  - watch  # a change is noticed without asking for it
- apiGroups: [$group]
  resources: [$formatstates]
  verbs:
  - get    # its own: is there a permit?
  - list   # where a watch begins
  - watch  # a permit is noticed as soon as it is given
  - create # its own, when the pod starts for the first time; without a spec
- apiGroups: [$group]
  resources: [$formatstates/status]
  verbs:
  - patch  # its own report; `update` would need the latest version and is not used
# Not given, on purpose: update and patch on formatstates (its spec is the controller's), delete (it
# outlives the pod), anything on storageformats/status (the controller's), Secrets, Events.
"""

_CONTROLLER_RULES = """\
rules:
- apiGroups: [$group]
  resources: [$storageformats]
  verbs:
  - list   # what people ask for, at the start
  - watch  # and whenever they ask for something else
- apiGroups: [$group]
  resources: [$storageformats/status]
  verbs:
  - patch  # conditions and counts; the spec is people's, and is never written
- apiGroups: [$group]
  resources: [$formatstates]
  verbs:
  - get    # before an eviction: does its pod still say that it is armed? A watch may lag
  - list   # what the sidecars report
  - watch  # and when they report something else
  - patch  # the permit, and the claim that the report is about: its spec
  - delete # of a claim that is gone: nobody else would
  - manage # no request: what the admission policy tells the controller by from a pod
- apiGroups: [""]
  resources: [pods]
  verbs:
  - get    # before a FormatState is deleted: is its pod really not there?
  - list   # which pods carry a sidecar, which are ready, which wait in their gate
  - watch  # a rollout goes on when a pod is ready again
- apiGroups: [""]
  resources: [pods/eviction]
  verbs:
  - create # the restart in which a pod converts; PodDisruptionBudgets are heard, `delete` is not used
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs:
  - list   # a database is counted by its claim, scaled down or not
  - watch  # a claim that goes takes its FormatState with it
- apiGroups: [apps]
  resources: [statefulsets, deployments, replicasets, daemonsets]
  verbs:
  - list   # who owns the pods, and is a rollout of theirs under way?
  - watch  # evictions wait until it is over
- apiGroups: [""]
  resources: [events]
  verbs:
  - create # what `kubectl describe` tells about a rollout
# Not given, on purpose: delete on pods (an eviction can be refused by a budget), anything that
# changes a workload, a claim or a StorageFormat's spec, Secrets, ConfigMaps, exec.
"""

_LEASE_RULES = """\
rules:
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs:
  - get    # who is the active one?
  - create # the first one ever; a name cannot be named here, the object is not there yet
  - update # to renew it, or to take over when it ran out
"""

_VIEWER_RULES = """\
rules:
- apiGroups: [$group]
  resources: [$storageformats, $formatstates]
  verbs:
  - get    # one of them
  - list   # kubectl get, kubectl storageformat status
  - watch  # kubectl wait, --watch
"""

_EDITOR_RULES = """\
rules:
- apiGroups: [$group]
  resources: [$storageformats]
  verbs:
  - create           # whoever may, decides what happens to the data of pods that name it
  - update           # kubectl replace
  - patch            # kubectl apply; pause, resume and undo
  - delete           # FormatStates go with it, data does not
  - deletecollection # kubectl delete --all
# Not given, on purpose: anything that writes FormatStates. They are the sidecars' and the controller's.
"""

_USERS = (
    """\
# What people may do, as part of Kubernetes' own roles: whoever may `view` a namespace sees what is converted
# there, whoever may `edit` it (or is its `admin`) changes that. Nobody is bound here.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: storageformat-view
  labels:
    rbac.authorization.k8s.io/aggregate-to-view: "true"
"""
    + _VIEWER_RULES
    + """\
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: storageformat-edit
  labels:
    rbac.authorization.k8s.io/aggregate-to-edit: "true"
"""
    + _EDITOR_RULES
)

_RBAC = (
    """\
# What a sidecar may do, whatever ServiceAccount its pod runs as. Bound to all of them at once: no
# role has to be made when a pod is, and there is no moment in which one is missing. Which of the
# FormatStates a sidecar may write is the admission policy's part: RBAC cannot tell pods apart.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: storageformat-sidecar
"""
    + _SIDECAR_RULES
    + """\
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: storageformat-sidecar
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: storageformat-sidecar
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: system:serviceaccounts
"""
)

_CONTROLLER_RBAC = (
    """\
# What the controller may do. The Helm chart makes the same for its own ServiceAccount.
apiVersion: v1
kind: Namespace
metadata:
  name: storageformat-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: storageformat-controller
  namespace: storageformat-system
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: storageformat-controller
"""
    + _CONTROLLER_RULES
    + """\
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: storageformat-controller
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: storageformat-controller
subjects:
- kind: ServiceAccount
  name: storageformat-controller
  namespace: storageformat-system
---
# In its own namespace: which instance is the active one.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: storageformat-controller
  namespace: storageformat-system
"""
    + _LEASE_RULES
    + """\
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: storageformat-controller
  namespace: storageformat-system
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: storageformat-controller
subjects:
- kind: ServiceAccount
  name: storageformat-controller
  namespace: storageformat-system
"""
)

_POLICY_SPEC = """\
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    # DELETE is not here: the garbage collector and a namespace's end must never meet this policy.
    - apiGroups: [$group]
      apiVersions: ["*"]
      operations: [CREATE, UPDATE]
      resources: [$formatstates, $formatstates/status]
  matchConditions:
  # People and the control plane are RBAC's business. kube-system's ServiceAccounts are the control
  # plane's controllers: they remove owner references and finalizers.
  - name: is-a-service-account
    expression: >-
      has(request.userInfo.groups)
      && request.userInfo.groups.exists(g, g == 'system:serviceaccounts')
      && !request.userInfo.groups.exists(g, g == 'system:serviceaccounts:kube-system')
  # Whoever has the verb `manage` on $formatstates is the controller.
  - name: is-not-the-controller
    expression: >-
      !authorizer.group('$group').resource('$formatstates')
      .namespace(request.namespace).check('manage').allowed()
  variables:
  - name: podClaim
    expression: "'authentication.kubernetes.io/pod-name'"
  - name: pod
    expression: >-
      has(request.userInfo.extra) && variables.podClaim in request.userInfo.extra
      && size(request.userInfo.extra[variables.podClaim]) == 1
      ? request.userInfo.extra[variables.podClaim][0] : ''
  - name: dot
    expression: "object.metadata.name.indexOf('.')"
  validations:
  - expression: >-
      variables.pod != '' &&
      request.userInfo.username.startsWith('system:serviceaccount:' + request.namespace + ':')
    reason: Forbidden
    message: >-
      a FormatState is written with a token that is bound to a pod of the same namespace:
      use the token that is projected into the sidecar
  - expression: >-
      variables.dot > 0 && object.metadata.name.substring(variables.dot + 1) == variables.pod
    reason: Forbidden
    message: a pod writes the FormatState <storageformat>.<its own name> only
    messageExpression: >-
      'pod ' + variables.pod + ' writes FormatStates called <storageformat>.' + variables.pod
      + ' only, and this one is ' + object.metadata.name
  - expression: >-
      (has(request.subResource) && request.subResource == 'status') || !has(object.spec)
    reason: Forbidden
    message: the spec of a FormatState is written by the controller alone; leave it out
"""

_POLICY = (
    """\
# A pod writes its own FormatState and no other: the token that a pod gets says which pod it is for,
# and that name must be the one behind the first dot of the FormatState's name.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: formatstate-of-own-pod
"""
    + _POLICY_SPEC
    + """\
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: formatstate-of-own-pod
spec:
  policyName: formatstate-of-own-pod
  validationActions: [Deny]
"""
)


def _crds() -> dict[str, str]:
    return {
        "crds/storageformats.yaml": _yaml(storageformat_crd()),
        "crds/formatstates.yaml": _yaml(formatstate_crd()),
    }


def _filled(texts: Mapping[str, str]) -> dict[str, str]:
    names = {
        "group": GROUP,
        "storageformats": PLURAL_STORAGEFORMATS,
        "formatstates": PLURAL_FORMATSTATES,
    }
    return {path: Template(text).substitute(names) for path, text in texts.items()}


def manifests() -> dict[str, str]:
    """The manifests by their path below ``deploy/``."""
    texts = {
        "rbac.yaml": _RBAC,
        "controller-rbac.yaml": _CONTROLLER_RBAC,
        "webhook-rbac.yaml": manifests_webhook.RBAC,
        "user-roles.yaml": _USERS,
        "admission-policy.yaml": _POLICY,
    }
    files = _crds() | _filled(texts)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    files["kustomization.yaml"] = _yaml(kustomization)
    return {path: _GENERATED + text for path, text in files.items()}


def chart_files() -> dict[str, str]:
    """What the chart's templates include, by its path below ``CHART_FILES``: without names of objects."""
    texts = {
        "sidecar-rules.yaml": _SIDECAR_RULES,
        "controller-rules.yaml": _CONTROLLER_RULES,
        "lease-rules.yaml": _LEASE_RULES,
        "webhook-rules.yaml": manifests_webhook.RULES,
        "webhook-configuration-rules.yaml": manifests_webhook.CONFIGURATION_RULES,
        "webhook-secret-rules.yaml": manifests_webhook.SECRET_RULES,
        "viewer-rules.yaml": _VIEWER_RULES,
        "editor-rules.yaml": _EDITOR_RULES,
        "admission-policy-spec.yaml": _POLICY_SPEC,
    }
    return {path: _GENERATED + text for path, text in (_crds() | _filled(texts)).items()}


def _files(directory: Path) -> dict[Path, str]:
    """Everything that belongs at ``directory`` and, in the repository, beside it."""
    files = {directory / name: text for name, text in manifests().items()}
    chart = directory.parent / CHART_FILES
    if chart.parent.is_dir():
        files |= {chart / name: text for name, text in chart_files().items()}
    return files


class _Dumper(yaml.SafeDumper):
    """Writes equal objects out each time: an anchor in a CRD helps nobody."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _yaml(document: dict[str, Any]) -> str:
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, width=100, default_flow_style=False
    )
    return text


def write(directory: Path) -> list[Path]:
    """Write what belongs at ``directory``; returns the files that changed."""
    changed = stale(directory)
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_files(directory)[path], encoding="utf-8")
    return changed


def stale(directory: Path) -> list[Path]:
    """The files that are missing or not what would be written."""
    return [
        path
        for path, text in _files(directory).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str] | None = None) -> int:
    """Print, write or check. Exit code 1 when a check finds something stale."""
    parser = argparse.ArgumentParser(prog="python -m format_operator.manifests")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", type=Path, metavar="DIRECTORY", help="write the files there")
    action.add_argument(
        "--check", type=Path, metavar="DIRECTORY", help="say whether they are there"
    )
    options = parser.parse_args(arguments)
    if options.write:
        for path in write(options.write):
            sys.stdout.write(f"wrote {path}\n")
    elif options.check:
        found = stale(options.check)
        for path in found:
            sys.stderr.write(f"{path} is stale: run with --write\n")
        return 1 if found else 0
    else:
        sys.stdout.write("---\n".join(manifests().values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
