"""Milvus: the server or the embedded one, its protocol, and a collection loaded, indexed, checked and asked."""
