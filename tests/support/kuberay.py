"""KubeRay's ray.io/v1 as JSON schemas, written from its API reference (1.6), closed: what is not listed is a misprint.

Pod templates stand here as anything: Kubernetes' own schema knows them, see `pod_templates`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

_ANY: Final[dict[str, Any]] = {}
_TEXT: Final = {"type": "string"}
_FLAG: Final = {"type": "boolean"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NUMBER: Final = {"type": "number", "minimum": 0}
_TEXTS: Final = {"type": "object", "additionalProperties": {"type": "string"}}


def _fields(required: tuple[str, ...] = (), /, **fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def _one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


_AUTOSCALER: Final = _fields(
    resources=_ANY,
    image=_TEXT,
    imagePullPolicy=_TEXT,
    securityContext=_ANY,
    idleTimeoutSeconds=_COUNT,
    upscalingMode=_one_of("Default", "Aggressive", "Conservative"),
    version=_one_of("v1", "v2"),
    env=_ANY,
    envFrom=_ANY,
    volumeMounts=_ANY,
)
_HEAD: Final = _fields(
    ("template", "rayStartParams"),
    template=_ANY,
    headService=_ANY,
    enableIngress=_FLAG,
    rayStartParams=_TEXTS,
    serviceType=_TEXT,
)
_WORKERS: Final = _fields(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    suspend=_FLAG,
    groupName=_TEXT,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    idleTimeoutSeconds=_COUNT,
    rayStartParams=_TEXTS,
    template=_ANY,
    scaleStrategy=_ANY,
    numOfHosts=_COUNT,
)
_CLUSTER: Final = _fields(
    ("headGroupSpec",),
    suspend=_FLAG,
    managedBy=_TEXT,
    authOptions=_fields(mode=_one_of("disabled", "token"), enableK8sTokenAuth=_FLAG, secretName=_TEXT),
    autoscalerOptions=_AUTOSCALER,
    headServiceAnnotations=_TEXTS,
    enableInTreeAutoscaling=_FLAG,
    gcsFaultToleranceOptions=_ANY,
    headGroupSpec=_HEAD,
    rayVersion=_TEXT,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)
RAY_JOB: Final = _fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion=_one_of("ray.io/v1"),
    kind=_one_of("RayJob"),
    metadata=_ANY,
    spec=_fields(
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        backoffLimit=_COUNT,
        rayClusterSpec=_CLUSTER,
        submitterPodTemplate=_ANY,
        metadata=_TEXTS,
        clusterSelector=_TEXTS,
        submitterConfig=_fields(backoffLimit=_COUNT),
        managedBy=_TEXT,
        deletionStrategy=_ANY,
        entrypoint=_TEXT,
        runtimeEnvYAML=_TEXT,
        jobId=_TEXT,
        submissionMode=_one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        entrypointResources=_TEXT,
        entrypointNumCpus=_NUMBER,
        entrypointNumGpus=_NUMBER,
        ttlSecondsAfterFinished=_COUNT,
        shutdownAfterJobFinishes=_FLAG,
        suspend=_FLAG,
    ),
)


def groups(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The head group of a RayJob, then its groups of workers."""
    cluster = job["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]
    yield from cluster["workerGroupSpecs"]


def pod_templates(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pod templates of a RayJob, as objects that Kubernetes' schema knows."""
    for number, group in enumerate(groups(job)):
        name = {"name": group.get("groupName", f"head-{number}")}
        yield {"apiVersion": "v1", "kind": "PodTemplate", "metadata": name, "template": group["template"]}
    submitter = {"name": "submitter"}
    template = job["spec"]["submitterPodTemplate"]
    yield {"apiVersion": "v1", "kind": "PodTemplate", "metadata": submitter, "template": template}
