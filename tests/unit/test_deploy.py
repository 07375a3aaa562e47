"""The image, the compose file and the RayJob against the repository and each other; no engine and no cluster needed."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clustering.config import load_config

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker/Dockerfile"
COMPOSE = ROOT / "docker/compose.yaml"
RAYJOB = ROOT / "cluster_configs/ray/rayjob.yaml"
FILES = {path.name: path.read_text(encoding="utf-8") for path in (DOCKERFILE, COMPOSE, RAYJOB)}

compose = yaml.safe_load(FILES["compose.yaml"])
services: dict[str, dict[str, Any]] = compose["services"]
job = yaml.safe_load(FILES["rayjob.yaml"])["spec"]
cluster = job["rayClusterSpec"]
groups = {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
pods = {name: group["template"]["spec"] for name, group in groups.items()}
containers = {name: pod["containers"][0] for name, pod in pods.items()}

# --- what the files say ---


def stages(text: str) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Stage name -> (what it starts from, its instructions as (word, rest))."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            start, _, name = rest.partition(" AS ")
            found[name] = (start, [])
        else:
            list(found.values())[-1][1].append((word, rest))
    return found


def lineage(stage: str, of: dict[str, tuple[str, list[tuple[str, str]]]]) -> list[tuple[str, str]]:
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
    return [*bases, *(s["image"] for s in services.values()), *(c["image"] for c in containers.values())]


SECRET = r"[\w.]*(?:token|password|secret|access_key|root_user)(?:_id|_access_key|_key)?"
REFERENCE = re.compile(r"\$\{\w+:\?[^}]*\}")


def literal_secrets(text: str) -> list[str]:
    """Names of secrets whose value stands in the text, as `NAME: value`, `NAME=value` or a pod's name and value."""
    pairs = re.findall(rf"(?i)(?<![\w.])({SECRET})\"?\s*[=:][ \t]*([^\s,}}][^\n]*)", text)
    pairs += re.findall(rf"(?i)name:\s*({SECRET})\s*[,\n]\s*value:\s*([^\n]+)", text)
    return [name for name, value in pairs if not REFERENCE.fullmatch(value.strip().strip("\"'"))]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command in a comment or an entry point, as words."""
    for name, text in FILES.items():
        comments = "\n".join(line.lstrip("# ") for line in text.splitlines() if line.lstrip().startswith("#"))
        for line in comments.replace("\\\n", " ").splitlines():
            if line.startswith(("docker ", "kubectl ")):
                yield name, shlex.split(line)
    yield RAYJOB.name, shlex.split(job["entrypoint"])


COMMANDS = list(commands())
RUNS = [(name, words) for name, words in COMMANDS if "-m" in words]


def after(words: list[str], flag: str) -> list[str]:
    return [words[place + 1] for place, word in enumerate(words) if word == flag]


def overrides(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if re.match(r"[a-z]+\.\w+=", word))


# --- the readers above find what they are there to find ---


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
    ],
)
def test_a_literal_secret_is_noticed(text: str) -> None:
    assert literal_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "RAY_AUTH_TOKEN: ${RAY_AUTH_TOKEN:?set it}",
        "- name: MILVUS_TOKEN\n  valueFrom:\n    secretKeyRef: {name: covey-milvus, key: token}",
        "store.token_env=MILVUS_TOKEN",
    ],
)
def test_a_reference_to_a_secret_is_no_secret(text: str) -> None:
    assert not literal_secrets(text)


# --- all three files ---


@pytest.mark.parametrize("image", images())
def test_images_are_pinned(image: str) -> None:
    assert pinned(image)


@pytest.mark.parametrize("name", FILES)
def test_no_file_holds_a_secret(name: str) -> None:
    assert literal_secrets(FILES[name]) == []


def test_ray_and_covey_have_one_version_everywhere() -> None:
    ray = re.search(r"RAY_VERSION=(\S+)", FILES["Dockerfile"])
    covey = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert ray is not None
    assert covey is not None
    assert cluster["rayVersion"] == ray[1]
    tags = {tag for text in FILES.values() for tag in re.findall(r"covey:(\d[\w.]*-\w+)", text)}
    assert tags == {f"{covey[1]}-{target}" for target in TARGETS}


def test_there_are_commands_to_check() -> None:
    assert {name for name, _ in COMMANDS} == set(FILES)
    assert {name for name, _ in RUNS} == {COMPOSE.name, RAYJOB.name}


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_commands_name_what_exists(name: str, words: list[str]) -> None:
    assert [path for path in after(words, "-f") + after(words, "--config") if not (ROOT / path).is_file()] == []
    assert set(after(words, "--target")) <= set(STAGES)
    assert set(after(words, "exec")) <= set(services)
    assert [module for module in after(words, "-m") if importlib.util.find_spec(module) is None] == []


@pytest.mark.parametrize(("name", "words"), RUNS)
def test_runs_have_a_configuration_that_is_accepted(name: str, words: list[str]) -> None:
    given = overrides(words)
    config = load_config(ROOT / after(words, "--config")[0], [f"{key}={value}" for key, value in given.items()])
    mounts = [
        {volume["target"] if isinstance(volume, dict) else volume.split(":")[1] for volume in services[ray]["volumes"]}
        for ray in ("ray-head", "ray-worker")
    ]
    if name == RAYJOB.name:
        mounts = [{mount["mountPath"] for mount in container["volumeMounts"]} for container in containers.values()]
        for container in containers.values():
            assert config.store.token_env in {variable["name"] for variable in container["env"]}
    for seen in mounts:  # by every node, at one path
        for path in (config.run.dir, *config.read.paths):
            assert any(path.startswith(mount + "/") for mount in seen), path


# --- the image ---


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


def test_what_the_image_copies_exists_and_reaches_the_build() -> None:
    let_in = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n*\n")[1].splitlines()
    copies = [shlex.split(rest)[:-1] for _, steps in STAGES.values() for word, rest in steps if word == "COPY"]
    from_stages = [source for words in copies for source in words if source.startswith("--from=")]
    sources = [source for words in copies if not words[0].startswith("--") for source in words]
    assert {source.removeprefix("--from=") for source in from_stages} <= set(STAGES)
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if f"!{source}" not in let_in] == []


# --- the compose file ---


@pytest.mark.parametrize("name", services)
def test_services_name_what_exists(name: str) -> None:
    service = services[name]
    assert set(service.get("depends_on", ())) <= set(services)
    assert set(service.get("secrets", ())) <= set(compose.get("secrets", ()))
    assert service["healthcheck"]["test"][0] == "CMD"
    for needed, how in service.get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}, needed
    if "build" in service:
        assert (COMPOSE.parent / service["build"]["context"]).resolve() == ROOT
        assert ROOT / service["build"]["dockerfile"] == DOCKERFILE
        assert service["build"]["target"] in STAGES
        assert service["image"].endswith("-" + service["build"]["target"])


def test_volumes_are_declared_and_used() -> None:
    mounted = [volume for service in services.values() for volume in service["volumes"]]
    assert {volume.split(":")[0] for volume in mounted if isinstance(volume, str)} == set(compose["volumes"])


def test_ports_stay_on_this_machine() -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


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


# --- the RayJob ---


def test_the_job_takes_its_cluster_down_and_asks_for_a_token() -> None:
    assert job["shutdownAfterJobFinishes"] is True
    assert cluster["authOptions"] == {"mode": "token"}


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


def test_the_gpu_group_alone_has_a_gpu() -> None:
    assert {name for name, c in containers.items() if "nvidia.com/gpu" in c["resources"]["limits"]} == {"gpu"}


def test_all_nodes_run_the_image_with_the_large_models() -> None:
    assert [image for image in {c["image"] for c in containers.values()} if not image.endswith("-gpu")] == []
