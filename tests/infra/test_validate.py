"""`genlib cluster validate`: the shipped files are right, by their owners' validators too, and what is edited wrongly is said in a sentence."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.command import main
from infra import validate
from infra.checks.documents import inside, written

INFRA = Path(__file__).parents[2] / "infra"
YAML = sorted(path.name for path in INFRA.glob("*.yaml"))
WORKER, HEAD = "spec.rayClusterSpec.workerGroupSpecs[0]", "spec.rayClusterSpec.headGroupSpec"
CONTAINER = f"{WORKER}.template.spec.containers[0]"


def said(*words: str) -> tuple[int, list[str]]:
    """Exit code and lines of the command."""
    out = io.StringIO()
    with redirect_stdout(out):
        code = main(["validate", *words])
    return code, out.getvalue().splitlines()


def edited(folder: Path, name: str, old: str, new: str) -> Path:
    """A copy of a shipped file with one edit."""
    text = (INFRA / name).read_text()
    assert old in text, f"{name} does not have {old!r}"
    (folder / name).write_text(text.replace(old, new, 1))
    return folder / name


def test_every_shipped_file_is_valid() -> None:
    assert {
        "aws.yaml",
        "gcp.yaml",
        "skypilot.yaml",
        "raycluster.yaml",
        "rayservice.yaml",
        *(f"rayjob-{job}.yaml" for job in ("clip", "sdxl", "stylegan")),
    } <= set(YAML)
    code, lines = said()
    assert (code, lines) == (0, [f"{len(YAML) + 2} files valid"])


EDITS = [
    # a key that is misspelt
    ("aws.yaml", "head_node_type:", "head_node_typ:", "head_node_typ is no key of Ray's launcher. Did you mean 'head_node_type'?"),
    ("aws.yaml", "region:", "regoin:", "provider.regoin is no key of Ray's launcher for aws. Did you mean 'region'?"),
    ("aws.yaml", "InstanceType: p5", "InstanceTyp: p5",
     "available_node_types.gpu.node_config.InstanceTyp is no key of EC2's RunInstancesRequest. Did you mean 'InstanceType'?"),
    ("gcp.yaml", "machineType: a3", "machinType: a3",
     "available_node_types.gpu.node_config.machinType is no key of Google's compute API. Did you mean 'machineType'?"),
    ("skypilot.yaml", "use_spot:", "use_spots:", "resources.use_spots is no key of SkyPilot 0.14.1. Did you mean 'use_spot'?"),
    ("rayjob-clip.yaml", "minReplicas:", "minReplica:", f"{WORKER}.minReplica is no key of KubeRay 1.6.2. Did you mean 'minReplicas'?"),
    ("rayjob-clip.yaml", "volumeMounts: &", "volumeMount: &",
     f"{HEAD}.template.spec.containers[0].volumeMount is no key of KubeRay 1.6.2. Did you mean 'volumeMounts'?"),
    ("rayjob-clip.yaml", "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/queue",
     "metadata.labels.'kueue.x-k8s.io/queue' is no label of Kueue. Did you mean 'kueue.x-k8s.io/queue-name'?"),
    ("rayservice.yaml", "route_prefix:", "rout_prefix:",
     "spec.serveConfigV2.applications[0].rout_prefix is no key of Ray Serve's ServeApplicationSchema, which passes over it."),
    ("rayservice.yaml", "jobs_folder:", "job_folder:",
     "spec.serveConfigV2.applications[0].args are refused by the server: there is no option 'job_folder'"),
    ("kueue.yaml", "nominalQuota: \"64\"", "nominalQota: \"64\"", "nominalQota is no key of Kueue's v1beta2. Did you mean 'nominalQuota'?"),
    ("storage.yaml", "accessModes", "accesModes", "spec.accesModes is no key of Kubernetes 1.37. Did you mean 'accessModes'?"),
    # a value of the wrong kind
    ("aws.yaml", "max_workers: 8", "max_workers: eight", "max_workers is 'eight'; it must be a whole number"),
    ("aws.yaml", "VolumeSize: 200", "VolumeSize: big", "BlockDeviceMappings[0].Ebs.VolumeSize is 'big'; it must be a whole number"),
    ("rayjob-clip.yaml", 'num-cpus: "0"', "num-cpus: 0", f'{HEAD}.rayStartParams.num-cpus is 0; it must be a string; write "0"'),
    ("rayjob-clip.yaml", "maxReplicas: 8", "maxReplicas: many", f"{WORKER}.maxReplicas is 'many'; it must be a whole number"),
    ("rayjob-clip.yaml", "memory: 512Gi", "memory: 512GB", f"{CONTAINER}.resources.limits.memory is '512GB'; it must look like 16Gi"),
    ("rayservice.yaml", "least: 1", "least: one", "spec.serveConfigV2.applications[0].args.replicas.least is 'one': it must be a valid integer"),
    ("skypilot.yaml", "num_nodes: 8", "num_nodes: 0", "num_nodes is 0; it must be at least 1"),
    ("rayjob-clip.yaml", "ray.io/v1", "ray.io/v1alpha1", "apiVersion is 'ray.io/v1alpha1'; it must be ray.io/v1"),
    ("rayservice.yaml", "cpus: 2.0, gpus: 1.0", "cpus: 2.0, gpus: 2.0",
     "args.replicas asks for 1 of 2 CPU and 2 GPU each, and the nodes of this file hold 0; ask for less, or give them more"),
    # YAML itself
    ("aws.yaml", "max_workers: 8", "8: max_workers", "the key 8 is no text, so write it in quotes"),
    ("rayservice.yaml", "route_prefix: /", "route_prefix: /\n        route_prefix: /b",
     "spec.serveConfigV2 is no configuration: line 5: the key 'route_prefix' stands twice"),
    ("aws.yaml", "max_workers: 8", "max_workers: 8\nmax_workers: 9", "the key 'max_workers' stands twice"),
    ("aws.yaml", "provider:\n  type", "provider:\n\ttype", "it is no valid YAML"),
    # what the image is
    ("aws.yaml", ":0.1.0-cuda", ":0.2.0-cuda",
     "docker.image is 'registry.example.com/genlib:0.2.0-cuda', whose tag '0.2.0-cuda' is no version of this code"),
    ("rayjob-sdxl.yaml", "genlib:0.1.0-cuda", "genlib", "image is 'registry.example.com/genlib', without a tag"),
    ("rayjob-sdxl.yaml", "genlib:0.1.0-cuda", "rayproject/ray:2.60.0", "which is no image of infra/Dockerfile"),
    ("rayjob-clip.yaml", "rayVersion: 2.60.0", "rayVersion: 2.59.0", "spec.rayClusterSpec.rayVersion is '2.59.0'; the image has Ray 2.60.0"),
    # ports
    ("rayservice.yaml", "name: serve, containerPort: 8000", "name: serve, containerPort: 8001",
     "containerPort is 8001, and serve listens on 8000; give both the same"),
    ("rayservice.yaml", "port: 8000}\n", "port: 9000}\n", "spec.serveConfigV2.http_options.port is 9000, and the service leads to port 8000"),
    ("raycluster.yaml", "name: dashboard, containerPort: 8265", "name: dashbord, containerPort: 8265",
     "ports[1].name is 'dashbord', of which nothing in the head knows. Did you mean 'dashboard'?"),
    ("gcp.yaml", "$RAY_HEAD_IP:6379", "$RAY_HEAD_IP:6380",
     "worker_start_ray_commands reaches for port 6380, and the head listens on 6379; give both the same"),
    # entry points and what they ask for
    ("rayjob-clip.yaml", "clip_pretrain.py", "clip_train.py", "spec.entrypoint runs /opt/genlib/jobs/clip_train.py, which does not exist"),
    ("rayjob-clip.yaml", "/opt/genlib/jobs", "/app/jobs", "which does not exist: the image has the code in /opt/genlib"),
    ("rayjob-clip.yaml", "clip_vit_b32", "clip_vit_b23", "spec.entrypoint says python /opt/genlib/jobs/clip_pretrain.py with words that it refuses"),
    ("rayjob-sdxl.yaml", "--denoiser.data.train", "--denoiser.data.trian",
     "there is no option --denoiser.data.trian. Did you mean '--denoiser.data.train'?"),
    ("rayjob-stylegan.yaml", "--workers 1:8", "--workers 16",
     "asks for 16 workers of 8 CPU and 1 GPU each, and the nodes of this file hold 8; ask for fewer, or raise their number"),
    ("skypilot.yaml", "--workers 8:64", "--workers 128", "run asks for 128 workers"),
    ("rayservice.yaml", "serve.deployment:application", "serve.deploy:application",
     "import_path is 'serve.deploy:application', which does not exist; the server is serve.deployment:application"),
    ("aws.yaml", "--dashboard-port", "--dashbord-port",
     "calls `ray start` with --dashbord-port, an option that `ray start` does not have. Did you mean '--dashboard-port'?"),
    ("rayjob-clip.yaml", "--run clip", "--help", "with --help it trains nothing"),
    # numbers of workers
    ("rayjob-clip.yaml", "minReplicas: 1", "minReplicas: 9", f"{WORKER}.minReplicas is 9, above maxReplicas 8; lower it, or raise maxReplicas"),
    ("rayjob-clip.yaml", "replicas: 8", "replicas: 12", f"{WORKER}.replicas is 12; it must be from minReplicas 1 to maxReplicas 8"),
    ("aws.yaml", "min_workers: 0\n    max_workers: 8", "min_workers: 9\n    max_workers: 8",
     "available_node_types.gpu.min_workers is 9, above its max_workers 8"),
    ("aws.yaml", "max_workers: 8", "max_workers: 4",
     "available_node_types.gpu.max_workers is 8, above max_workers of the cluster, 4, and never reached"),
    ("rayservice.yaml", "least: 1, most: 8", "least: 9, most: 8", "args.replicas.least is 9, and most is 8; it must be from 1 to that"),
    # who may use it
    ("rayjob-clip.yaml", "    authOptions: {mode: token}", "    suspend: false",
     "spec.rayClusterSpec.authOptions.mode is nothing, so that whoever reaches the cluster runs code on it; write token"),
    ("rayservice.yaml", "{mode: token}", "{mode: disabled}", "authOptions.mode is 'disabled', so that whoever reaches the cluster runs code on it"),
    ("aws.yaml", "    - --env RAY_AUTH_MODE=token\n", "", "docker.run_options lacks --env RAY_AUTH_MODE=token"),
    ("gcp.yaml", "  /home/ray/.ray/auth_token: ~/.ray/auth_token", "  /home/ray/x: ~/x",
     "file_mounts lacks the token that RAY_AUTH_MODE=token needs"),
    ("skypilot.yaml", "  RAY_AUTH_MODE: token\n", "", "starts Ray without a token"),
    ("skypilot.yaml", "RAY_AUTH_TOKEN: null", "RAY_AUTH_TOKEN: abcdef", "secrets.RAY_AUTH_TOKEN is written into the file"),
    ("aws.yaml", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "opens the dashboard to 0.0.0.0"),
    ("rayservice.yaml", "valueFrom: {secretKeyRef: {name: genlib-api, key: keys}}", "value: abcdefghabcdefgh",
     "writes GENLIB_API_KEYS into the file; take it from a Secret"),
    ("gcp.yaml", "  project_id", "  gcp_credentials: {type: service_account, credentials: x}\n  project_id",
     "provider.gcp_credentials puts credentials into the file"),
    # a head that stays
    ("gcp.yaml", "machineType: n2-standard-4", "machineType: n2-standard-4\n      scheduling: {preemptible: true}",
     "puts the head on a spot node, and who loses the head loses all jobs"),
    ("aws.yaml", "InstanceType: m7i.xlarge", "InstanceType: m7i.xlarge\n      InstanceMarketOptions: {MarketType: spot}",
     "puts the head on a spot node"),
    ("raycluster.yaml", "        affinity:", "        nodeSelector: {karpenter.sh/capacity-type: spot}\n        affinity:",
     "puts the head on a spot node"),
    # names of resources and of variables
    ("aws.yaml", "GPU: 8", "GPUs: 8", "available_node_types.gpu.resources.GPUs is a resource that nothing asks for. Did you mean 'GPU'?"),
    ("rayjob-clip.yaml", 'nvidia.com/gpu: "8"', 'nvidia.com/gpus: "8"',
     "resources.limits.'nvidia.com/gpus' is a resource that Ray does not count. Did you mean 'nvidia.com/gpu'?"),
    ("rayjob-clip.yaml", "  backoffLimit: 3", "  entrypointResources: '{\"on_demand\": 1}'\n  backoffLimit: 3",
     "spec.entrypointResources.on_demand is a resource that nothing asks for"),
    ("rayjob-clip.yaml", "name: GENLIB_RUNS", "name: GENLIB_RUN",
     "env[0].name is GENLIB_RUN, which the code does not read. Did you mean 'GENLIB_RUNS'?"),
    ("skypilot.yaml", "RUNS_NFS: null", "RUN_NFS: null",
     "setup uses $RUNS_NFS, which neither envs nor secrets nor the script sets. Did you mean 'RUN_NFS'?"),
    ("rayjob-clip.yaml", "value: /runs}", "value: /results}", "env[0].value is /results, where no volume is mounted"),
    ("rayjob-clip.yaml", "- {name: data, mountPath", "- {name: dat, mountPath",
     "is 'dat', and no volume of the pod has that name. Did you mean 'data'?"),
    ("aws.yaml", "p5.48xlarge", "p5.48xlarg", "InstanceType is 'p5.48xlarg', which EC2 does not know. Did you mean 'p5.48xlarge'?"),
    ("aws.yaml", "region: us-west-2", "region: us-west-22", "provider.region is 'us-west-22', which is no region of AWS. Did you mean 'us-west-2'?"),
    ("gcp.yaml", "    - --volume /runs:/runs\n", "", "docker.run_options lacks --volume /runs:/runs, without which runs are gone with the node"),
    ("rayjob-clip.yaml", "RAY_JOB_STOP_WAIT_TIME_S", "RAY_JOB_STOP_WAIT_TIME", "which nothing reads. Did you mean 'RAY_JOB_STOP_WAIT_TIME_S'?"),
    ("rayjob-clip.yaml", "name: genlib-clip", "name: genlib_clip", "metadata.name is 'genlib_clip'; it must be small letters, digits and dashes"),
    ("raycluster.yaml", "restartPolicy: Never", "restartPolicy: Always", "restartPolicy is 'Always'; Ray's autoscaler needs Never"),
    # what Kueue refuses
    ("rayjob-clip.yaml", "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false",
     "spec.shutdownAfterJobFinishes is not true, and Kueue refuses a job"),
    ("rayjob-clip.yaml", "    rayVersion", "    enableInTreeAutoscaling: true\n    rayVersion",
     "enableInTreeAutoscaling is true, and Kueue (label kueue.x-k8s.io/queue-name) refuses a cluster that changes its size"),
    # the image's own files
    ("Dockerfile", "USER 1000\n", "", "runs as root; end with USER"),
    ("Dockerfile", "python:3.11.14-slim-bookworm", "python", "python has no version, and another day makes another image"),
    ("Dockerfile", "torch==2.13.0\nENV", "torch==2.12.0\nENV", "pyproject.toml asks for torch<2.14,>=2.13"),
    ("Dockerfile", "GENLIB_RUNS=/runs", "GENLIB_API_KEYS=abcdefghabcdefgh", "GENLIB_API_KEYS is kept in the image"),
    ("Dockerfile", " --no-install-recommends", "", "Avoid additional packages by specifying `--no-install-recommends` (DL3015 of hadolint)"),
    ("Dockerfile", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "lacks ENV RAY_AUTH_MODE=token"),
    ("requirements.lock", "ray==2.60.0", "ray==2.59.0", "has ray 2.59.0, and pyproject.toml asks for ==2.60.0; `make lock` writes it anew"),
    ("requirements.lock", "torchmetrics==1.9.0", "nvidia-nccl-cu13==2.29.7", "has nvidia-nccl-cu13, which comes with torch's own wheel"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    EDITS,
    ids=[f"{name} {new.strip().splitlines()[0][:40] if new.strip() else 'without ' + old.strip()[:30]}" for name, old, new, _ in EDITS],
)
def test_a_wrong_edit_is_said_in_a_sentence(tmp_path: Path, name: str, old: str, new: str, sentence: str) -> None:
    path = edited(tmp_path, name, old, new)
    code, lines = said(str(path))
    assert code == 1
    assert any(sentence in line for line in lines), lines
    assert all(line.startswith(f"{path}: ") for line in lines[:-1])
    assert re.fullmatch(r"\d+ faults? in 1 file", lines[-1])


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where each key and each entry stands."""
    for part, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, part)
        yield from places(inner, (*at, part))


FREE = re.compile(r"available_node_types\.gpu|envs\.OMP_NUM_THREADS|.*\.'nvidia.com/gpu'|.*labels.*")
"""Keys whose names are the user's own."""


def broken(name: str) -> list[str]:
    """Every place of a file whose key may be misspelt, or whose value may be a list in place of it, and nothing is said."""
    missed = []
    for document in yaml.safe_load_all((INFRA / name).read_text()):
        plain = json.loads(json.dumps(document))  # what anchors share is changed in one place
        for at in places(plain):
            changed = copy.deepcopy(plain)
            holder = inside(changed, *at[:-1])
            holder[at[-1]] = "text" if isinstance(holder[at[-1]], dict | list) else ["a"]
            if not any(validate.of_document(changed)) and not (name == "skypilot.yaml" and at[-1] == "accelerators"):
                missed.append(f"{written(at)} of another type")
            if isinstance(at[-1], str) and not FREE.fullmatch(written(at)):
                changed = copy.deepcopy(plain)
                holder = inside(changed, *at[:-1])
                holder[f"{at[-1]}x"] = holder.pop(at[-1])
                if not any(validate.of_document(changed)):
                    missed.append(f"{written(at)} misspelt")
    return missed


@pytest.mark.parametrize(
    "name",
    [
        "aws.yaml",
        "gcp.yaml",
        "kueue.yaml",
        "storage.yaml",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("skypilot.yaml", "raycluster.yaml", "rayjob-clip.yaml", "rayservice.yaml")),
    ],
)
def test_no_key_may_be_misspelt_and_no_value_of_another_type(name: str) -> None:
    assert broken(name) == []


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_ray_itself_takes_the_launchers_files(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config  # Ray's own check, which has no public name

    config = prepare_config(yaml.safe_load((INFRA / name).read_text()))
    validate_config(config)
    assert config["setup_commands"] == []
    assert not [line for line in config["head_start_ray_commands"] if "0.0.0.0" in line]


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("colour: blue\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    code, lines = said(str(tmp_path), str(tmp_path / "none.yaml"))
    assert code == 1
    assert [line.partition(": ")[2].partition(",")[0] for line in lines[:-1]] == [
        "is empty",
        "holds no mapping",
        "is none of what is checked: a manifest of Kubernetes",
        "is no file",
    ]


def test_what_the_server_writes_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.__main__ import write_config
    from serve.models.sources import ModelSource
    from serve.options import KEYS, ServeOptions
    from serve.servers.replicas import Replicas

    monkeypatch.setenv(KEYS, "correct-horse-battery-staple")
    path = tmp_path / "serve.yaml"
    write_config(path, (ModelSource("clip", "/runs/clip"),), Replicas(least=1, most=4), ServeOptions(host="0.0.0.0"))
    assert said(str(path)) == (0, ["1 file valid"])
    path.write_text(path.read_text().replace("least", "lest"))
    assert "there is no setting of replicas 'lest'" in said(str(path))[1][0]


def test_without_its_libraries_it_says_how_to_come_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.checks import schema

    schema.kubernetes.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "kubernetes_validate", None)
    with pytest.raises(ValueError, match=r"with kubernetes-validate, which is not installed; `pip install 'genlib\[infra\]'` brings it"):
        said(str(INFRA / "storage.yaml"))
