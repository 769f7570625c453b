"""Flags of `serve` about Kubernetes, and where its API is."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from router import flag_values as values
from router.backends.backend import authority_of
from router.backends.kubernetes.api import ApiServer
from router.backends.kubernetes.service import parse_service
from router.errors import ConfigError

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HOST, _PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
_OF_THE_API = ("kubernetes_api", "kubernetes_token_file", "kubernetes_ca_file")


def add_kubernetes(group: argparse._ArgumentGroup) -> None:
    """Add them."""
    group.add_argument(
        "--backend-kubernetes",
        action="append",
        type=values.checked(parse_service),
        default=[],
        metavar="NAMESPACE/SERVICE[:PORT][,kind=KIND][,...]",
        help="each ready endpoint of that service is one, watched at the Kubernetes API; may be "
        "repeated",
    )
    group.add_argument(
        "--kubernetes-api",
        type=values.checked(_api),
        metavar="URL",
        help="where that API is (default: that of the cluster in which this runs)",
    )
    group.add_argument(
        "--kubernetes-token-file",
        metavar="FILE",
        help="a file with the token for it, read again at each request (default in a cluster: the "
        "service account's)",
    )
    group.add_argument(
        "--kubernetes-ca-file",
        metavar="FILE",
        help="a PEM file with the authorities that its certificate is verified by (default in a "
        "cluster: the service account's)",
    )


def _api(text: str) -> None:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
        raise ValueError(
            f"{text.rpartition('@')[2]!r}: allowed is http[s]://host:port, or a path more"
        )


def check_kubernetes(given: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Raise ConfigError if the API is not told, or told for nothing."""
    for name in _OF_THE_API:
        if given[name] is not None and not given["backend_kubernetes"]:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(flag, given[name], "is for --backend-kubernetes, which is not there")
    if not given["backend_kubernetes"]:
        return
    text = given["backend_kubernetes"][0]
    if given["kubernetes_api"] is None and _HOST not in environment:
        raise ConfigError(
            "--backend-kubernetes", text,
            f"the environment has no {_HOST}: outside a cluster, --kubernetes-api says where it is",
        )  # fmt: skip
    if not environment.get(_PORT, "443").isdigit():
        raise ConfigError("--backend-kubernetes", text, f"{_PORT} in the environment is no port")
    server = api_server(
        given["kubernetes_api"],
        given["kubernetes_token_file"],
        given["kubernetes_ca_file"],
        environment,
    )
    for path in filter(None, (server.token_file, server.ca_file)):
        if not os.access(path, os.R_OK):
            raise ConfigError("--backend-kubernetes", text, f"{path} cannot be read")


def api_server(
    url: str | None, token_file: str | None, ca_file: str | None, environment: Mapping[str, str]
) -> ApiServer:
    """The one that is told; what is not, as a pod is told by its cluster."""
    if url is not None:
        return ApiServer(url.rstrip("/"), token_file, ca_file)
    port = int(environment.get(_PORT, "443"))
    return ApiServer(
        f"https://{authority_of(environment.get(_HOST, ''), port)}",
        token_file or str(_ACCOUNT / "token"),
        ca_file or str(_ACCOUNT / "ca.crt"),
    )
