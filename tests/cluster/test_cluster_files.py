"""The files of `cluster/`, held against schemas, linters and parsers: nothing here needs a cluster."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from support.command_lines import commands_in, parse_command
from support.kuberay import RAY_JOB, groups, pod_templates
from support.paths import REPO

from jobs.code_identity import CODE_VERSION
from jobs.score.actor_pool import ActorPool

CLUSTER = REPO / "cluster"
PROGRAMS = Path(sys.executable).parent
SBATCH = CLUSTER / "slurm" / "score.sbatch"
IMAGE = f"registry.example.com/artimuse-batch:{CODE_VERSION}"
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
PINS = dict(line.split("==") for line in (REPO / "constraints.txt").read_text().splitlines() if "==" in line)
KUBERNETES = "1.31"
# Where names of environment variables are looked for, besides our own code: in the modules that read them.
READERS = (
    "botocore.configprovider",
    "botocore.credentials",
    "huggingface_hub.constants",
    "huggingface_hub.utils._auth",
    "ray._private.authentication.authentication_token_setup",
    "ray._common.usage.usage_constants",
    "ray._private.ray_constants",
    "ray.dashboard.modules.job.job_supervisor",
    "ray.scripts.symmetric_run",
)


def _objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def _ray_job() -> dict[str, Any]:
    (job,) = _objects("kuberay/rayjob.yaml")
    jsonschema.validate(job, RAY_JOB)
    return job


def _aws() -> dict[str, Any]:
    (config,) = _objects("aws.yaml")
    return dict(config)


def _containers(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in groups(job):
        yield from group["template"]["spec"]["containers"]


def _console_commands() -> list[str]:
    return re.findall(r"^\$ (.*)$", (CLUSTER / "README.md").read_text(), re.MULTILINE)


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 2**20, "Gi": 2**30}[unit]


def _parse_ray(words: list[str]) -> dict[str, Any]:
    """Parse a `ray` command with Ray's own command line, and the `artimuse` command behind its `--` with ours."""
    from ray.scripts.scripts import cli

    command: Any = cli
    name, rest = "ray", words[1:]
    while hasattr(command, "commands"):
        name, *rest = rest
        command = command.commands[name]
    if "artimuse" in rest:
        parse_command(shlex.join(rest[rest.index("artimuse") :]))
    return dict(command.make_context(name, list(rest)).params)


def test_every_kubernetes_object_fits_the_schema_of_its_kind() -> None:
    objects = [object for name in ("nightly", "weights", "account") for object in _objects(f"kuberay/{name}.yaml")]
    objects += pod_templates(_ray_job())
    assert len(objects) == 10
    for each in objects:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ((), "backofLimit"),
        (("rayClusterSpec",), "enableAutoscaling"),
        (("rayClusterSpec", "workerGroupSpecs", 0), "maxReplica"),
    ],
)
def test_a_misprint_in_the_ray_job_is_found(place: tuple[str | int, ...], name: str) -> None:
    job = copy.deepcopy(_ray_job())
    inner: Any = job["spec"]
    for key in place:
        inner = inner[key]
    inner[name] = 1
    with pytest.raises(jsonschema.ValidationError, match=name):
        jsonschema.validate(job, RAY_JOB)


def test_a_misprint_in_a_pod_is_found() -> None:
    pod = next(pod_templates(copy.deepcopy(_ray_job())))
    pod["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="resource"):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_ray_up_accepts_its_file_and_adds_no_commands_of_its_own() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(_aws())
    validate_config(config)
    for commands in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert config[commands] == []
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    for start in starts:
        _parse_ray(shlex.split(start))


def test_gpus_and_models_are_as_many_in_kubernetes() -> None:
    job = _ray_job()
    options = parse_command(job["spec"]["entrypoint"])
    gpu = {group.get("groupName"): group for group in groups(job)}["gpu"]
    assert ActorPool.parse(options["actors"]).most == gpu["maxReplicas"]
    assert (options["device"], options["address"]) == ("cuda", "auto")
    assert gpu["minReplicas"] >= 1, "a run with --device cuda refuses a cluster that has no GPU yet"


def test_gpus_and_models_are_as_many_on_aws() -> None:
    (submit,) = [words for line in _console_commands() if (words := shlex.split(line))[:3] == ["ray", "job", "submit"]]
    options = parse_command(shlex.join(submit[submit.index("artimuse") :]))
    types = _aws()["available_node_types"]
    most = types["gpu"]["max_workers"] * types["gpu"]["resources"]["GPU"]
    assert ActorPool.parse(options["actors"]).most == most
    assert types["gpu"]["min_workers"] >= 1
    assert _aws()["max_workers"] >= sum(each.get("max_workers", 0) for each in types.values())


def test_no_task_lands_on_a_head_and_no_loader_on_a_gpu() -> None:
    kubernetes = {each.get("groupName", "head"): each["rayStartParams"]["num-cpus"] for each in groups(_ray_job())}
    aws = {name: str(each["resources"]["CPU"]) for name, each in _aws()["available_node_types"].items()}
    assert kubernetes == aws == {"head": "0", "loaders": "24", "gpu": "0"}


def test_what_ray_is_told_of_a_pod_is_what_the_pod_has() -> None:
    for group in groups(_ray_job()):
        (container,) = group["template"]["spec"]["containers"]
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        (shm,) = [each["name"] for each in container["volumeMounts"] if each["mountPath"] == "/dev/shm"]
        assert volumes[shm]["emptyDir"]["medium"] == "Memory"
        shared, told = _bytes(volumes[shm]["emptyDir"]["sizeLimit"]), group["rayStartParams"]
        memory = _bytes(container["resources"]["limits"]["memory"])
        assert int(told["object-store-memory"]) <= shared < memory / 2
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
        assert told["num-cpus"] in ("0", container["resources"]["limits"].get("cpu"))
        assert told.get("num-gpus") == container["resources"]["limits"].get("nvidia.com/gpu")


def test_a_head_that_is_deleted_has_the_time_to_stop_its_run() -> None:
    head = next(groups(_ray_job()))["template"]["spec"]
    (container,) = head["containers"]
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    stop_s = int({each["name"]: each.get("value") for each in container["env"]}["RAY_JOB_STOP_WAIT_TIME_S"])
    assert stop_s <= pause_s < head["terminationGracePeriodSeconds"]


def test_versions_of_image_ray_and_kubectl_commands_agree() -> None:
    job = _ray_job()
    assert {container["image"] for container in _containers(job)} == {_aws()["docker"]["image"]} == {IMAGE}
    builds = [line for line in _console_commands() if line.startswith("docker ")]
    assert builds
    assert all(IMAGE in shlex.split(line) for line in builds)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == PINS["ray"] == version("ray")
    rays = [
        each
        for each in (*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["cluster"])
        if each.startswith("ray[")
    ]
    assert len({each.partition("]")[2] for each in rays}) == 1


def test_every_name_in_a_manifest_is_the_name_of_something() -> None:
    job, nightly = _ray_job(), {each["kind"]: each for each in _objects("kuberay/nightly.yaml")}
    (claim,) = _objects("kuberay/weights.yaml")
    pods = [template["template"]["spec"] for template in pod_templates(job)]
    claims = {
        each["persistentVolumeClaim"]["claimName"]
        for pod in pods
        for each in pod.get("volumes", ())
        if "emptyDir" not in each
    }
    assert claims == {claim["metadata"]["name"]}
    (account,) = _objects("kuberay/account.yaml")
    assert {pod["serviceAccountName"] for pod in pods} == {account["metadata"]["name"]}
    page = (CLUSTER / "README.md").read_text()
    for variable in (
        each["valueFrom"]["secretKeyRef"] for c in _containers(job) for each in c["env"] if "valueFrom" in each
    ):
        assert f"kubectl create secret generic {variable['name']} " in page
        assert (f"`{variable['key']}`" if variable.get("optional") else f"--from-literal={variable['key']}=") in page
    pod = nightly["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (end,), (start,), (volume,) = pod["initContainers"], pod["containers"], pod["volumes"]
    assert end["command"][1:4] == ["delete", "rayjob", job["metadata"]["name"]]
    assert f"kubectl create configmap {volume['configMap']['name']} --from-file cluster/kuberay/rayjob.yaml" in page
    assert start["command"][-1] == f"{start['volumeMounts'][0]['mountPath']}/rayjob.yaml"
    names = {each["metadata"]["name"] for each in nightly.values()} | {nightly["RoleBinding"]["roleRef"]["name"]}
    assert names == {pod["serviceAccountName"], nightly["RoleBinding"]["subjects"][0]["name"]}


def test_all_pods_keep_to_the_pod_security_standard_restricted() -> None:
    nightly = {each["kind"]: each for each in _objects("kuberay/nightly.yaml")}["CronJob"]
    pods = [nightly["spec"]["jobTemplate"]["spec"]["template"]["spec"]]
    pods += [template["template"]["spec"] for template in pod_templates(_ray_job())]
    containers = [each for pod in pods for each in (*pod.get("initContainers", ()), *pod["containers"])]
    containers.append(_ray_job()["spec"]["rayClusterSpec"]["autoscalerOptions"])  # of the head, and KubeRay's own
    assert len(containers) == 7
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] != 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim"}
    for container in containers:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_a_run_needs_no_key_where_its_account_stands_for_a_role() -> None:
    for container in _containers(_ray_job()):
        secrets = [each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each]
        assert {each["key"] for each in secrets} >= {"aws-access-key-id", "aws-session-token", "aws-region"}
        assert all(each["optional"] for each in secrets)


def _variables() -> Iterator[str]:
    for container in _containers(_ray_job()):
        yield from (each["name"] for each in container["env"])
    for option in _aws()["docker"]["run_options"]:
        yield from re.findall(r"^--env (\w+)=", option)
    yield from re.findall(r"^export (\w+)=", SBATCH.read_text(), re.MULTILINE)
    yield from re.findall(r"\b(HF_\w+|RAY_[A-Z_]+|AWS_\w+)\b", (CLUSTER / "README.md").read_text())


def test_every_environment_variable_is_read_by_someone() -> None:
    ours = [path for folder in ("artimuse_actor", "jobs") for path in (REPO / folder).rglob("*.py")]
    theirs = [Path(str(spec.origin)) for name in READERS if (spec := importlib.util.find_spec(name))]
    text = "\n".join(path.read_text() for path in (*ours, *theirs))
    names = set(_variables())
    assert {"HF_HOME", "ARTIMUSE_CACHE", "RAY_AUTH_MODE", "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"} <= names
    unread = {name for name in names if not re.search(rf"['\"]{name}['\"]", text)}
    assert not unread


@pytest.mark.process
def test_the_slurm_script_has_no_faults_that_shellcheck_knows() -> None:
    subprocess.run(["bash", "-n", SBATCH], check=True, timeout=20)
    done = subprocess.run([PROGRAMS / "shellcheck", SBATCH], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    assert os.access(SBATCH, os.X_OK)


@pytest.mark.process
def test_the_slurm_script_starts_ray_on_every_node_and_passes_its_arguments_on(tmp_path: Path) -> None:
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    as_json = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))'"
    told = tmp_path / "srun.json"
    stand_ins = {
        "scontrol": "printf 'node-a\\nnode-b\\n'",
        "ray": "true",
        "hostname": "echo 10.0.0.7 172.17.0.1",
        # As srun and `ray symmetric-run` do: the command after `--` runs once; or Ray does not start, and all is well.
        "srun": f'[ "$3" = --nodelist=node-a ] && shift 3 && exec "$@"; {as_json} "$@" > {told}\n'
        'while [ "$1" != -- ]; do shift; done; shift; [ -n "$NO_RAY" ] || "$@"',
        "artimuse": f'exec {as_json} "$@"',
    }
    for name, line in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"JOB_NODELIST": "node-[a-b]", "JOB_NUM_NODES": "2", "CPUS_PER_TASK": "96", "GPUS_ON_NODE": "8"}
    environment = {
        **os.environ,
        **{f"SLURM_{name}": value for name, value in slurm.items()},
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    arguments = ["/data/my photos", "--out", "/data/scored", "--attributes", "Composition & Design", "--texts"]
    command = [str(SBATCH), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=20)
    words = json.loads(told.read_text())
    start = words.index("ray")
    assert words[:start] == ["--nodes=2", "--ntasks=2", "--cpus-per-task=96"]
    of_all = _parse_ray(words[start:])
    assert (of_all["address"], of_all["min_nodes"]) == ("10.0.0.7:6379", 2)
    of_each_node = curate_and_validate_ray_start_args(words[start + 2 : words.index("--", start)])
    of_node = _parse_ray(["ray", "start", "--address", "10.0.0.7:6379", *of_each_node])
    assert (of_node["num_cpus"], of_node["num_gpus"]) == (96, 8)
    options = parse_command(shlex.join(["artimuse", *json.loads(done.stdout)]))
    assert (options["source"], options["out"]) == ("/data/my photos", "/data/scored")
    assert (options["device"], options["address"]) == ("cuda", "auto")
    empty = subprocess.run([SBATCH], env=environment, capture_output=True, text=True, check=False, timeout=20)
    assert (empty.returncode, empty.stderr[:6]) == (2, "Usage:")
    environment["NETWORK"] = "172."
    subprocess.run(command, env=environment, capture_output=True, check=True, timeout=20)
    assert "172.17.0.1:6379" in json.loads(told.read_text())
    environment["NO_RAY"] = "1"
    lost = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=20)
    assert (lost.returncode, lost.stderr[:17]) == (1, "Ray did not start"), lost.stderr
    del environment["NO_RAY"]
    (tmp_path / "artimuse").write_text("#!/bin/sh\nexit 3\n")
    failed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=20)
    assert failed.returncode == 3


@pytest.mark.process
def test_the_dockerfile_has_no_faults_that_hadolint_knows() -> None:
    file = CLUSTER / "Dockerfile"
    done = subprocess.run([PROGRAMS / "hadolint", file], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "\nUSER 1000\n" in file.read_text()


def test_the_dockerfile_copies_what_is_there_and_all_that_is_installed() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert text.count("\nFROM ") == 1  # no stage with a compiler: torch's own kernels do
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()}
    for name in copied:
        assert (REPO / name).exists(), name
    installed = {package.split(".")[0] for package in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert installed | {"pyproject.toml", "constraints.txt", PROJECT["project"]["readme"]} <= copied
    for requirement in re.findall(r"grep '\^([\w-]+)==' constraints.txt", text):
        assert requirement in PINS


def test_every_command_on_the_page_parses_and_names_files_that_exist() -> None:
    commands = _console_commands()
    assert len(commands) >= 20
    for line in commands:
        words = shlex.split(line)
        for word in words:
            if word.startswith("cluster/"):
                assert (REPO / word).exists(), line
        if words[0] == "artimuse":
            parse_command(line)
        elif words[0] == "ray":
            _parse_ray(words)
        elif words[0] == "sbatch":
            file = words.index(str(SBATCH.relative_to(REPO)))
            parse_command(shlex.join(["artimuse", "score", *words[file + 1 :]]))
        else:
            assert words[0] in ("docker", "export", "helm", "hf", "kubectl", "pip", "scancel", "squeue"), line
    assert commands_in((CLUSTER / "README.md").read_text())
