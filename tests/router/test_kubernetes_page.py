"""The manifests in docs/kubernetes.md are ones, and ask for what the product does."""

import re
from pathlib import Path

import pytest
import yaml

from router.backends.kubernetes.service import parse_service
from router.options import parse_serve

PAGE = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()


@pytest.fixture
def manifests():
    """By kind."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    documents = [each for block in blocks for each in yaml.safe_load_all(block)]
    assert len(documents) == len({each["kind"] for each in documents})
    return {each["kind"]: each for each in documents}


def test_the_role_allows_what_is_asked_of_the_api_and_nothing_else(manifests):
    """
    Listing and watching; it is bound to the account that the pod has.
    """
    role, binding = manifests["Role"], manifests["RoleBinding"]
    pod = manifests["Deployment"]["spec"]["template"]["spec"]

    assert role["rules"] == [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        }
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == pod["serviceAccountName"]
    assert manifests["ServiceAccount"]["metadata"]["name"] == pod["serviceAccountName"]


def test_the_deployment_starts_with_flags_that_there_are(manifests):
    """
    In a namespace that its role is for.
    """
    spec = manifests["Deployment"]["spec"]
    container = spec["template"]["spec"]["containers"][0]
    command, *flags = container["args"]
    options = parse_serve([*flags, "--kubernetes-api", "http://k"], {"LEVELHEAD_API_KEY": "k"})

    assert command == "serve"
    assert (
        parse_service(options.backend_kubernetes[0]).namespace
        == (manifests["Role"]["metadata"]["namespace"])
    )
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert manifests["Service"]["spec"]["selector"] == spec["selector"]["matchLabels"]
