"""A webhook of somebody else's, called after ours: it puts a container before all others, as a service mesh may."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from controlplane import ControlPlane
from format_operator.admission import certificates
from format_operator.admission.tls import ServerTls

_NAME: Final = "zz-somebody-elses"  # API servers call them in the order of their names
_PATH: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        there = request["object"]["spec"].get("initContainers") or []
        response = {"uid": request["uid"], "allowed": True}
        if there and all(one["name"] != "mesh-init" for one in there):
            container = {"name": "mesh-init", "image": "mesh:1"}
            patch = [{"op": "add", "path": "/spec/initContainers/0", "value": container}]
            text = base64.b64encode(json.dumps(patch).encode()).decode()
            response |= {"patchType": "JSONPatch", "patch": text}
        answer = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
        content = json.dumps({**answer, "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # its name there
        pass


@contextmanager
def another_hook(plane: ControlPlane, namespace: str) -> Iterator[None]:
    """For the pods of that namespace."""
    pair = certificates.make(["127.0.0.1"], datetime.now(UTC), timedelta(hours=1))
    tls = ServerTls()
    tls.use(pair)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    assert isinstance(tls.context, ssl.SSLContext)
    server.socket = tls.context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    hook = {
        "name": "somebody.elses.hook",
        "admissionReviewVersions": ["v1"],
        "clientConfig": {
            "url": f"https://127.0.0.1:{server.server_port}/",
            "caBundle": base64.b64encode(pair.authority or b"").decode(),
        },
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["pods"],
            }
        ],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
    }
    plane.admin.create(_PATH, {"metadata": {"name": _NAME}, "webhooks": [hook]})
    try:
        yield
    finally:
        plane.admin.delete(f"{_PATH}/{_NAME}")
        server.shutdown()
        server.server_close()
