"""A Milvus server with TLS, users and a limited disk: who comes in, what the others are told, and how a run goes on."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from clustering.config.sections import StoreSection
from clustering.errors import StoreError
from clustering.milvus.audit import audit_collection
from clustering.milvus.channel import Channel
from clustering.milvus.collection import prepare_collection
from clustering.milvus.endpoint import Endpoint
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.sample import write_sample
from clustering.stages.store import store_vectors
from tests.integration.conftest import holds, start_milvus, stop_milvus
from tests.integration.test_faults import DIM, N_TEXTS, embedded_run, is_loading, meanwhile

pytestmark = [pytest.mark.ray, pytest.mark.milvus, pytest.mark.full]
ROOT_TOKEN = "root:Milvus"
NAME = "milvus.test"  # in the certificate, unlike the address


@dataclass(frozen=True)
class Guarded:
    folder: Path
    uri: str
    ca: Path

    @property
    def words(self) -> list[str]:
        """What a run is told about the server, besides who comes."""
        return [
            f"store.uri={self.uri}",
            f"store.server.ca_file={self.ca}",
            f"store.server.server_name={NAME}",
            "store.timeout_s=5",
        ]

    def endpoint(self, name: str, **who: Any) -> Endpoint:
        return Endpoint(self.uri, name, ca_file=str(self.ca), server_name=NAME, timeout_s=5, **who)

    def client(self, token: str = ROOT_TOKEN) -> MilvusClient:
        tls = {"secure": True, "server_pem_path": str(self.ca), "server_name": NAME}
        return MilvusClient(uri=self.uri, token=token, timeout=20, **tls)

    def limit_disk(self, mib: int) -> None:
        """The server reads its configuration again every few seconds."""
        config = self.folder / "configs" / "milvus.yaml"
        lines = config.read_text().splitlines()
        at = next(number for number, line in enumerate(lines) if line.strip().startswith("diskQuota:"))
        lines[at] = f"{lines[at].partition(':')[0]}: {mib}"
        config.write_text("\n".join(lines) + "\n")


def certificates(folder: Path) -> Path:
    """An authority of our own and a server's certificate from it, for one name."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; it makes the certificates of this test")
    folder.mkdir()

    def openssl(words: str) -> None:
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)

    openssl("req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.pem -subj /CN=covey-test-ca")
    openssl(f"req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN={NAME}")
    (folder / "names").write_text(f"subjectAltName=DNS:{NAME}\n")
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -out server.pem -extfile names")
    return folder / "ca.pem"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    home = tmp_path_factory.mktemp("guarded")
    ca = certificates(home / "tls")
    options = ["--authorization-enabled", "true", "--tls-mode", "1", "--server-pem-path", str(ca.parent / "server.pem"),
               "--server-key-path", str(ca.parent / "server.key"), "--ca-pem-path", str(ca)]  # fmt: skip
    access = {"token": ROOT_TOKEN, "secure": True, "server_pem_path": str(ca), "server_name": NAME}
    process, uri = start_milvus(home / "data", *options, **access)
    yield Guarded(home / "data", uri, ca)
    stop_milvus(process)


@pytest.fixture
def words(guarded, tmp_path):
    sample = tmp_path / "sample.csv"
    write_sample(sample, 300)
    return ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"run.dir={tmp_path / 'run'}",
            f"store.collection={tmp_path.name}", *guarded.words]  # fmt: skip


def refusal(client: MilvusClient, name: str) -> str:
    """Why the server takes no further entity, or ""."""
    try:
        client.insert(name, [{"vector": [1.0] * 512}])
        return ""
    except Exception as error:
        return str(error)


def wait_for(found: Callable[[], Any]) -> Any:
    """What is found as soon as it is more than nothing; the server looks at its configuration every few seconds."""
    deadline = time.monotonic() + 300
    while not (result := found()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.5)
    return result


def test_a_wrong_token_is_refused_and_a_right_one_never_printed(covey, guarded, words, tmp_path, monkeypatch):
    run = RunDir(tmp_path / "run")
    result = covey(*words)
    assert result.status == 2
    assert "refused the request without a token" in result.err
    result = covey(*words, "store.server.token_env=COVEY_TEST_TOKEN")
    assert result.status == 2
    assert "COVEY_TEST_TOKEN is not set" in result.err
    monkeypatch.setenv("COVEY_TEST_TOKEN", "root:not-the-password")
    result = covey(*words, "store.server.token_env=COVEY_TEST_TOKEN")
    assert result.status == 2
    assert "refused the token in COVEY_TEST_TOKEN" in result.err
    assert "not-the-password" not in result.err + result.out
    assert not (run / "texts").exists()
    secret = "sesame-4711"
    guarded.client().create_user("opener", secret)
    guarded.client().grant_role("opener", "admin")
    (tmp_path / "token").write_text(f"opener:{secret}\n")
    result = covey(*words, f"store.server.token_file={tmp_path / 'token'}")
    assert result.status == 0, result.err
    assert secret not in result.err + result.out
    assert holds(run.path, secret, f"opener:{secret}") == []
    assert holds(tmp_path, secret) == [tmp_path / "token"]  # the search for it finds it where it stands


def test_a_server_that_cannot_prove_its_name_is_refused(covey, guarded, words, tmp_path, monkeypatch):
    monkeypatch.setenv("COVEY_TEST_TOKEN", ROOT_TOKEN)
    words = [*words, "store.server.token_env=COVEY_TEST_TOKEN"]
    for missing in ("store.server.ca_file=null", "store.server.server_name=null"):
        result = covey(*words, missing)
        assert result.status == 2
        assert f"the certificate of {guarded.uri} is not accepted" in result.err
    result = covey(*words, f"store.server.ca_file={tmp_path / 'none.pem'}")
    assert result.status == 2
    assert "store.server.ca_file: there is no file" in result.err


@pytest.mark.nightly
def test_a_user_who_may_only_read_is_told_and_the_run_goes_on_later(covey, guarded, words, tmp_path):
    root = guarded.client()
    root.create_user("reader", "only-reads")
    root.create_role("readers")
    for kind, privilege in [("Global", "DescribeCollection"), ("Global", "ShowCollections"), ("Collection", "Search"),
                            ("Collection", "Query"), ("Collection", "IndexDetail")]:  # fmt: skip
        root.grant_privilege("readers", kind, privilege, "*")
    root.grant_role("reader", "readers")
    token = tmp_path / "token"
    token.write_text("reader:only-reads")
    words = [*words, f"store.server.token_file={token}"]
    run = RunDir(tmp_path / "run")
    result = covey(*words)
    assert result.status == 1
    assert "PrivilegeCreateCollection: permission deny to reader" in result.err
    assert "the same command goes on" in result.err
    assert "only-reads" not in result.err
    embedded = run.manifest["stages"]["embed"]["finished"]
    root.grant_role("reader", "admin")
    result = covey(*words)
    assert result.status == 0, result.err
    assert run.manifest["stages"]["embed"]["finished"] == embedded


@pytest.mark.nightly
def test_a_token_that_expires_half_way_ends_the_load_and_the_next_one_goes_on(local_ray, guarded, tmp_path):
    run = embedded_run(tmp_path / "expiring")
    root = guarded.client()
    root.create_user("guest", "first-word")
    root.grant_role("guest", "admin")
    token = tmp_path / "token"
    token.write_text("guest:first-word")
    endpoint = guarded.endpoint("expiring", token_file=str(token))
    store = StoreSection(uri=guarded.uri, index="FLAT")

    def load() -> dict[str, Any]:
        return store_vectors(run, endpoint, store, N_TEXTS, DIM, "mark")

    def expire() -> None:
        root.update_password("guest", "first-word", "second-word")

    started = time.monotonic()
    with meanwhile(is_loading(run), expire), pytest.raises(StoreError, match="the same command goes on") as error:
        load()
    assert "auth check failure" in str(error.value).lower()
    assert "first-word" not in str(error.value)
    assert time.monotonic() - started < 60  # waiting would not mend it
    done = len(read_index(run / "loaded"))
    assert 0 < done < len(list((run / "vectors").iterdir()))
    token.write_text("guest:second-word")
    load()
    with Channel(endpoint) as channel:
        assert channel.count() == N_TEXTS
        assert audit_collection(run, channel, N_TEXTS) == []


@pytest.mark.nightly
def test_a_server_out_of_disk_ends_the_load_and_the_next_one_goes_on(local_ray, guarded, tmp_path):
    run = embedded_run(tmp_path / "full")
    token = tmp_path / "token"
    token.write_text(ROOT_TOKEN)
    endpoint = guarded.endpoint("full", token_file=str(token))
    store = StoreSection(uri=guarded.uri, index="FLAT")
    root = guarded.client()
    fields = root.create_schema(auto_id=True)
    fields.add_field("key", DataType.INT64, is_primary=True)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=512)
    root.create_collection("hog", schema=fields)
    vectors = np.random.default_rng(1).normal(size=(3000, 512)).astype(np.float32)
    root.insert("hog", [{"vector": vector} for vector in vectors])
    root.flush("hog")
    prepare_collection(run, root, endpoint.collection, store, DIM, "mark")  # where another start died
    guarded.limit_disk(4)
    assert "disk quota" in wait_for(lambda: refusal(root, "hog"))
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"disk quota.* the same command goes on"):
        store_vectors(run, endpoint, store, N_TEXTS, DIM, "mark")
    assert time.monotonic() - started < 60  # waiting would not mend it
    guarded.limit_disk(-1)
    wait_for(lambda: refusal(root, "hog") == "")
    store_vectors(run, endpoint, store, N_TEXTS, DIM, "mark")
    with Channel(endpoint) as channel:
        assert channel.count() == N_TEXTS
        assert audit_collection(run, channel, N_TEXTS) == []
