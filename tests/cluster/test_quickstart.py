"""docs/quickstart.md does what it says: its manifest and its commands, on a real cluster."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from srcip_e2e.cluster.apps import APPS_IMAGE
from srcip_e2e.cluster.kube import Kube, Object, eventually
from srcip_e2e.cluster.site import Edge, Site
from srcip_e2e.cluster.workloads import alone

pytestmark = pytest.mark.cluster
TEXT = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text()
NGINX = "sed s/8080/80/ /app/nginx.conf >/tmp/nginx.conf && exec nginx -c /tmp/nginx.conf"


def block(language: str) -> str:
    """The only code block of this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


def manifest(edge: Edge) -> list[Object]:
    """The page's objects, but for the image, which no registry brings here, and the balancers, which are the edge's."""
    objects: list[Object] = list(yaml.safe_load_all(block("yaml")))
    template = next(each for each in objects if each["kind"] == "Deployment")["spec"]["template"]
    template["metadata"]["annotations"]["srcip.io/trusted-cidrs"] = alone(*edge.host.ips)
    template["spec"]["containers"][0] |= {"image": APPS_IMAGE, "command": ["sh", "-c", NGINX]}
    return objects


def test_the_quick_start_shows_the_client(cluster: Site, edge: Edge) -> None:
    """The manifest comes up as 2/2, the script of step 5 gets its answer, and the log of step 6 has the client."""
    cluster.kube("delete", "namespace", "demo", "--ignore-not-found")
    demo: Kube = cluster.kube.within("demo")
    try:
        demo.apply(*manifest(edge))
        demo.rolled_out("deployment/web")
        assert "2/2" in demo("get", "pods")
        script = f"NODE={edge.node_ips[0]}\n{block('bash')}"

        def sent() -> str:
            return str(edge.host.run(["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout)

        assert "203.0.113.7 54321" in eventually(sent, "an answer from the NodePort")
        assert '203.0.113.7 54321 "GET / HTTP/1.0" 200' in demo("logs", "deployment/web", "--container=web")
        check = demo("exec", "deploy/web", "--container=srcip-proxy", "--", "srcip-proxy", "check")
        assert "FAILED" not in check
    finally:
        cluster.kube("delete", "namespace", "demo", "--wait=false", "--ignore-not-found")
