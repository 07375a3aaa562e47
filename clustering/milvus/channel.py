"""An endpoint in; a gRPC channel out that sends and receives whole columns."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import grpc
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc

from clustering.milvus.endpoint import Endpoint
from clustering.milvus.protocol import Hits, read_hits
from clustering.milvus.retry import RefusedError

SEARCH_METHOD = "/milvus.proto.milvus.MilvusService/Search"


class Channel:
    """This process's own channel to the server, for columns instead of rows; threads may share it."""

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
        self.metadata = [("dbname", endpoint.db_name or "")]
        if token := endpoint.token:
            self.metadata.append(("authorization", base64.b64encode(token.encode()).decode()))
        self.stub = milvus_pb2_grpc.MilvusServiceStub(self._grpc)
        # The stub would parse the reply; ``read_hits`` reads it a column at a time.
        self._search = self._grpc.unary_unary(
            SEARCH_METHOD, request_serializer=lambda request: request.SerializeToString()
        )

    def call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """The server's reply to a request; ``method`` as in Milvus's protocol, such as "Upsert".

        Raises: RefusedError, grpc.RpcError.
        """
        timeout_s = timeout_s or self.endpoint.request_s
        reply = getattr(self.stub, method)(request, timeout=timeout_s, metadata=self.metadata)
        _check(reply.status if hasattr(reply, "status") else reply)
        return reply

    def search(self, request: Any) -> Hits:
        """The hits of a search request. Raises: RefusedError, grpc.RpcError."""
        status, hits = read_hits(self._search(request, timeout=self.endpoint.request_s, metadata=self.metadata))
        _check(status)
        return hits

    def query(
        self, expression: str, fields: list[str], limit: int | None = None, smallest: bool = False, strong: bool = True
    ) -> Any:
        """The fields of the entities for which an expression holds.

        smallest : of more than ``limit``, those with the smallest keys; else any
        strong : wait for all earlier writes; needless where a strong request came before and no write since
        """
        level = common_pb2.ConsistencyLevel.Strong if strong else common_pb2.ConsistencyLevel.Eventually
        params = {"limit": str(limit)} if limit else {}
        if smallest:
            params |= {"iterator": "True", "reduce_stop_for_best": "True"}
        request = milvus_pb2.QueryRequest(
            **self.endpoint.target,
            expr=expression,
            output_fields=fields,
            query_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in params.items()],
            consistency_level=level,
        )
        return self.call("Query", request).fields_data

    def count(self, expression: str = "") -> int:
        """Entities for which an expression holds; an entity that was written twice counts twice."""
        (field,) = self.query(expression, ["count(*)"])
        return int(field.scalars.long_data.data[0])

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self._grpc.close()


def _check(status: Any) -> None:
    if status.code or status.error_code:
        raise RefusedError(status)
