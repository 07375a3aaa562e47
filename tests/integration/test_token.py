"""A Milvus server with authentication: who may come in, and what is said to who may not."""

from __future__ import annotations

import pytest

from clustering.rundir import RunDir
from clustering.sample import write_sample
from tests.integration.conftest import start_milvus, stop_milvus

pytestmark = [pytest.mark.ray, pytest.mark.milvus]


@pytest.fixture(scope="module")
def secured_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secured") / "data"
    process, uri = start_milvus(folder, "--authorization-enabled", "true", token="root:Milvus")
    yield uri
    stop_milvus(process)


def test_a_wrong_token_is_refused_and_a_right_one_never_printed(covey, secured_server, tmp_path, monkeypatch):
    sample, run = tmp_path / "sample.csv", RunDir(tmp_path / "run")
    write_sample(sample, 300)
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"store.uri={secured_server}",
             f"run.dir={run.path}"]  # fmt: skip
    result = covey(*words)
    assert result.status == 2
    assert "refused the request without a token" in result.err
    result = covey(*words, "store.token_env=COVEY_TEST_TOKEN")
    assert result.status == 2
    assert "COVEY_TEST_TOKEN is not set" in result.err
    monkeypatch.setenv("COVEY_TEST_TOKEN", "root:not-the-password")
    result = covey(*words, "store.token_env=COVEY_TEST_TOKEN")
    assert result.status == 2
    assert "refused the token in COVEY_TEST_TOKEN" in result.err
    assert "not-the-password" not in result.err + result.out
    assert not (run / "texts").exists()
