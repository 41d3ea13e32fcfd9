"""`helm test`: the controller answers on /healthz, and the API server serves both kinds."""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.request
from pathlib import Path

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 # a path
SECONDS = 10


def get(url: str, token: str = "", ca_file: Path | None = None) -> bytes:
    request = urllib.request.Request(  # noqa: S310 # our own URLs
        url, headers={"Authorization": f"Bearer {token}"} if token else {}
    )
    context = ssl.create_default_context(cafile=ca_file) if ca_file else None
    with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:  # noqa: S310 # as above
        return answer.read()


def host(name: str, variable: str) -> str:
    address = os.environ.get(variable, name)
    return f"[{address}]" if ":" in address else address


def main(service: str, port: str, directory: str = TOKEN) -> int:
    token = Path(directory)
    # The Service's variable, not its name: it works where there is no DNS, too.
    where = host(service, service.upper().replace("-", "_") + "_SERVICE_HOST")
    print(f"controller: {get(f'http://{where}:{port}/healthz').decode().strip()}")
    api = f"https://{host('kubernetes.default.svc', 'KUBERNETES_SERVICE_HOST')}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    found = json.loads(
        get(
            f"{api}/apis/storageformat.dev/v1alpha1",
            (token / "token").read_text(),
            token / "ca.crt",
        )
    )
    served = {resource["name"] for resource in found["resources"]}
    print(f"served: {', '.join(sorted(served))}")
    missing = {
        "storageformats",
        "storageformats/status",
        "formatstates",
        "formatstates/status",
    } - served
    if missing:
        print(f"not served: {', '.join(sorted(missing))}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
