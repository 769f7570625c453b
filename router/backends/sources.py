"""Where the backends of an instance come from, beside what `--backend` says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from router.backends.dns_source import DnsSource
from router.backends.file_source import FileSource
from router.backends.kubernetes.flags import api_server
from router.backends.kubernetes.source import KubernetesSource
from router.backends.lacks import Lacks
from router.backends.source import BackendSource
from router.backends.standing import Standing
from router.instance import Instance


def sources_of(
    instance: Instance, environment: Mapping[str, str] = os.environ
) -> list[BackendSource]:
    """Those that its flags ask for; the keys of backends are those of `environment`."""
    sources: list[BackendSource] = []
    if instance.backends_file is not None:
        lacks = Lacks(environment, instance.tokenizer_path)
        sources.append(FileSource(Path(instance.backends_file), lacks))
    sources += map(DnsSource, instance.backend_dns)
    if instance.backend_kubernetes:
        server = api_server(
            instance.kubernetes_api,
            instance.kubernetes_token_file,
            instance.kubernetes_ca_file,
            environment,
        )
        sources += (KubernetesSource(text, server) for text in instance.backend_kubernetes)
    return sources


def standings(sources: Sequence[BackendSource]) -> list[Standing]:
    """How those stand that tell how they do."""
    found = (getattr(source, "standing", None) for source in sources)
    return [each for each in found if isinstance(each, Standing)]
