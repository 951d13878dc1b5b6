"""A stand-in for a mesh's injector: a mutating webhook that adds what the annotation mesh.example/inject names.

Usage: mesh_injector.py FOLDER. It has tls.crt, tls.key and patches.json: by that name, the init container, the sidecar
and whether the sidecar is a native one. Its init container comes first, as Istio's and Linkerd's do.
"""

import base64
import http.server
import json
import socket
import ssl
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])
PATCHES = json.loads((FOLDER / "patches.json").read_text())


def patch(pod):
    wanted = PATCHES[pod["metadata"]["annotations"]["mesh.example/inject"]]
    spec = pod["spec"]
    if any(each["name"] == wanted["init"]["name"] for each in spec.get("initContainers", [])):
        return []
    added = [wanted["init"], *([wanted["sidecar"]] if wanted["native"] else [])]
    operations = [{"op": "add", "path": "/spec/initContainers", "value": [*added, *spec.get("initContainers", [])]}]
    if not wanted["native"]:
        operations.append({"op": "add", "path": "/spec/containers/-", "value": wanted["sidecar"]})
    return operations


class Webhook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operations = patch(review["request"]["object"])
        print(review["request"].get("name", ""), len(operations), flush=True)
        encoded = base64.b64encode(json.dumps(operations).encode()).decode()
        response = {"uid": review["request"]["uid"], "allowed": True, "patchType": "JSONPatch", "patch": encoded}
        body = json.dumps(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(FOLDER / "tls.crt", FOLDER / "tls.key")
server = Server(("::", 8443), Webhook)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
