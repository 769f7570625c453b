"""The Helm chart, the manifests and the compose file: what they start takes what they say."""

import re
from pathlib import Path

import pytest
import yaml

from router.backends.backends_file import backends_in
from router.backends.kubernetes.service import parse_service
from router.backends.lacks import Lacks
from router.options import parse_serve
from router.question import GRACE_S
from tests.deploy.go_template import render

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "levelhead"


def rendered(**values):
    """The chart's manifests by kind and namespace, with those values in place of its own."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    scope = {
        "Values": defaults | values,
        "Release": {"Name": "door", "Namespace": "front"},
    }
    documents = []
    for template in sorted((CHART / "templates").glob("*.yaml")):
        documents += yaml.safe_load_all(render(template.read_text(), scope))
    found = [each for each in documents if each]
    by_place = {(each["kind"], each["metadata"].get("namespace", "front")): each for each in found}
    assert len(by_place) == len(found)
    return by_place


def container(manifests):
    return manifests["Deployment", "front"]["spec"]["template"]["spec"]["containers"][0]


def test_the_chart_starts_a_front_door_with_flags_that_there_are():
    """
    As they stand in values.yaml.
    """
    command, *flags = container(rendered())["args"]
    options = parse_serve([*flags, "--kubernetes-api", "http://k"], {})

    assert command == "serve"
    assert options.front_doors == 2
    assert parse_service(options.backend_kubernetes[0]).namespace == "serving"


def test_values_reach_the_command_line():
    """
    Several services, more flags, another method.
    """
    manifests = rendered(
        backends=["a/b", "c/d:http,kind=vllm"],
        flags=["--max-load-age", "3"],
        loadBalanceMethod="min_step_cost",
    )
    options = parse_serve([*container(manifests)["args"][1:], "--kubernetes-api", "http://k"], {})

    assert options.backend_kubernetes == ("a/b", "c/d:http,kind=vllm")
    assert options.max_load_age_s == 3
    assert options.load_balance_method == "min_step_cost"


def test_the_job_is_called_as_the_alerts_want_it_whatever_the_release_is_called():
    """
    They ask for `up` of jobs whose names begin with levelhead.
    """
    monitor = {"enabled": True, "interval": "9s", "labels": {}}
    manifests = rendered(serviceMonitor=monitor)
    job_label = manifests["ServiceMonitor", "front"]["spec"]["jobLabel"]

    assert manifests["Service", "front"]["metadata"]["labels"][job_label] == "levelhead"


def test_a_pod_has_the_time_for_its_drain():
    """
    Front doors hear of it, and the kubelet waits until the last of them would be killed.
    """
    manifests = rendered(drainTimeoutSeconds=300)
    options = parse_serve([*container(manifests)["args"][1:], "--kubernetes-api", "http://k"], {})
    pod = manifests["Deployment", "front"]["spec"]["template"]["spec"]

    assert options.drain_timeout_s == 300
    assert pod["terminationGracePeriodSeconds"] > 300 + GRACE_S


def test_the_pod_may_list_and_watch_in_each_namespace_and_do_nothing_else():
    """
    By the account that it has.
    """
    manifests = rendered(namespaces=["one", "two"])
    account = manifests["ServiceAccount", "front"]["metadata"]["name"]

    for namespace in ("one", "two"):
        role, binding = manifests["Role", namespace], manifests["RoleBinding", namespace]
        assert role["rules"] == [
            {
                "apiGroups": ["discovery.k8s.io"],
                "resources": ["endpointslices"],
                "verbs": ["list", "watch"],
            }
        ]
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": account, "namespace": "front"}
        ]
    pod = manifests["Deployment", "front"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account


def test_a_key_comes_from_a_secret_or_there_is_none():
    """
    It stands on no command line.
    """
    assert "env" not in container(rendered())
    (variable,) = container(rendered(apiKeySecret="keys"))["env"]

    assert variable["name"] == "LEVELHEAD_API_KEY"
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": "api-key"}


def test_the_service_and_the_monitor_find_the_pod():
    """
    The monitor only where it is wanted.
    """
    wanted = {"enabled": True, "interval": "9s", "labels": {"release": "watcher"}}
    manifests = rendered(serviceMonitor=wanted)
    labels = manifests["Deployment", "front"]["spec"]["template"]["metadata"]["labels"]
    service, monitor = manifests["Service", "front"], manifests["ServiceMonitor", "front"]

    assert service["spec"]["selector"] == labels
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.items() <= service["metadata"]["labels"].items()
    assert monitor["metadata"]["labels"] == {"app": "door", "release": "watcher"}
    assert monitor["spec"]["endpoints"][0]["interval"] == "9s"
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert ("ServiceMonitor", "front") not in rendered()


@pytest.mark.parametrize("text", ["{{ .Values.a | upper }}", '{{ include "x" . }}', "x{{ end }}"])
def test_what_the_renderer_does_not_know_it_refuses(text):
    """
    It would else pass what Helm would not.
    """
    with pytest.raises(ValueError, match=r"filter|expression|end too many"):
        render(text, {"Values": {"a": "b"}})


def test_the_manifests_are_those_of_the_page():
    """
    docs/kubernetes.md explains them; the file is to be applied.
    """
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    told = [each for block in blocks for each in yaml.safe_load_all(block)]

    assert told == [*yaml.safe_load_all((DEPLOY / "kubernetes" / "levelhead.yaml").read_text())]


def test_the_monitor_selects_the_service_of_the_manifests():
    """
    By a label that it has.
    """
    monitor = yaml.safe_load((DEPLOY / "kubernetes" / "servicemonitor.yaml").read_text())
    manifests = yaml.safe_load_all((DEPLOY / "kubernetes" / "levelhead.yaml").read_text())
    (service,) = [each for each in manifests if each["kind"] == "Service"]

    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"].get("labels", {}).items()


def test_compose_starts_what_there_is():
    """
    Its flags parse, its files are there, and Grafana asks Prometheus, which asks levelhead.
    """
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    _, *flags = services["levelhead"]["command"]
    flags[flags.index("--backends-file") + 1] = str(DEPLOY / "backends.toml")
    mounts = [each for one in services.values() for each in one["volumes"]]
    files = [each.split(":")[0] for each in mounts if each.startswith(".")]

    assert parse_serve(flags, {}).host == "0.0.0.0"
    assert [each for each in files if not (DEPLOY / each).exists()] == []
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    (job,) = scraped["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["levelhead:8000"]
    assert all((DEPLOY / "prometheus" / each).exists() for each in scraped["rule_files"])
    folder = DEPLOY / "grafana" / "provisioning" / "datasources"
    (source,) = yaml.safe_load((folder / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]


def test_the_backends_of_compose_can_be_read():
    """
    As the file that levelhead watches.
    """
    content = (DEPLOY / "backends.toml").read_bytes()

    assert len(backends_in(content, ".toml", Lacks({}))) == 2
