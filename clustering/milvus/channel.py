"""An endpoint in; a gRPC channel for whole columns out, and the run's store for the length of a block."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from pymilvus import MilvusClient, MilvusException
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc

from clustering.config.sections import RunConfig
from clustering.milvus.embedded import embedded_server
from clustering.milvus.endpoint import Endpoint, endpoint_of
from clustering.milvus.protocol import Hits, read_hits
from clustering.milvus.retry import RefusedError
from clustering.runs.directory import RunDir

log = logging.getLogger("covey")
SERVICE = "/milvus.proto.milvus.MilvusService/"


class Channel:
    """A channel of this process's own to the server, for columns instead of rows; threads may share it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            *endpoint.grpc_options.items(),
        ]
        if endpoint.secure:
            if endpoint.server_name:
                options.append(("grpc.ssl_target_name_override", endpoint.server_name))
            root = Path(endpoint.ca_file).read_bytes() if endpoint.ca_file else None
            self._grpc = grpc.secure_channel(endpoint.host_port, grpc.ssl_channel_credentials(root), options)
        else:
            self._grpc = grpc.insecure_channel(endpoint.host_port, options)
        token = endpoint.token
        self.metadata = [("dbname", endpoint.db_name or "")]
        if token:
            self.metadata.append(("authorization", base64.b64encode(token.encode()).decode()))
        self.stub = milvus_pb2_grpc.MilvusServiceStub(self._grpc)
        self._search = self._grpc.unary_unary(
            SERVICE + "Search", request_serializer=lambda request: request.SerializeToString()
        )

    def call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """The server's reply to a request; ``method`` as in Milvus's protocol, such as "Upsert".

        Raises: RefusedError, grpc.RpcError.
        """
        timeout_s = timeout_s or self.endpoint.request_s
        reply = getattr(self.stub, method)(request, timeout=timeout_s, metadata=self.metadata)
        _check(reply.status if hasattr(reply, "status") else reply)
        return reply

    def search(self, request: Any) -> tuple[Hits, int]:
        """The hits of a search request, and the bytes of the reply. Raises: RefusedError, grpc.RpcError."""
        reply = self._search(request, timeout=self.endpoint.request_s, metadata=self.metadata)
        status, hits = read_hits(reply)
        _check(status)
        return hits, len(reply)

    def query(
        self, expression: str, fields: list[str], limit: int | None = None, collection: str = "",
        smallest: bool = False, strong: bool = True,
    ) -> Any:  # fmt: skip
        """The fields of the entities for which an expression holds.

        smallest : of more than ``limit``, those with the smallest keys; else whichever the server has at hand
        strong : wait for everything written so far; needless where a strong request came before and nothing since
        """
        level = common_pb2.ConsistencyLevel.Strong if strong else common_pb2.ConsistencyLevel.Eventually
        words = {"limit": str(limit)} if limit else {}
        if smallest:
            words |= {"iterator": "True", "reduce_stop_for_best": "True"}
        return self.call(
            "Query",
            milvus_pb2.QueryRequest(
                collection_name=collection or self.endpoint.collection,
                db_name=self.endpoint.db_name or "",
                expr=expression,
                output_fields=fields,
                query_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in words.items()],
                consistency_level=level,
            ),
        ).fields_data

    def count(self, expression: str = "", collection: str = "") -> int:
        """Entities for which an expression holds; an entity that was written twice counts twice."""
        (field,) = self.query(expression, ["count(*)"], collection=collection)
        return int(field.scalars.long_data.data[0])

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self._grpc.close()


def _check(status: Any) -> None:
    if status.code or status.error_code:
        raise RefusedError(status)


def server_version(client: MilvusClient) -> tuple[int, ...]:
    """Major, minor and patch of the server's version, from words such as v2.3.5-lite."""
    numbers = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", str(client.get_server_version()))
    return tuple(int(number or 0) for number in numbers.groups()) if numbers else (0, 0, 0)


@contextmanager
def connected(endpoint: Endpoint) -> Iterator[MilvusClient]:
    """A client for the time of the block; what it raises becomes a StoreError: where, what, and how to go on.

    Raises: ConfigError when there is no connection, see Address.connect.
    """
    client = endpoint.connect()
    try:
        yield client
    except (grpc.RpcError, MilvusException, RefusedError) as error:
        raise endpoint.store_error(error) from None
    finally:
        client.close()


@contextmanager
def open_store(config: RunConfig, run: RunDir) -> Iterator[Endpoint]:
    """The address of the store; the embedded server runs until the block ends, whatever ends it."""
    if not config.store.embedded:
        yield endpoint_of(config, config.store.uri)
        return
    home = run.local("store")
    with embedded_server(home) as uri:
        yield endpoint_of(config, uri, str(home))


def default_nlist(n_texts: int) -> int:
    """4 sqrt(n), as Milvus advises, within its bounds."""
    return int(min(max(4 * n_texts**0.5, 16), 65_536))
