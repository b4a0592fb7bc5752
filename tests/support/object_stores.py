"""Object storages for tests: a folder behind `file://`, and S3's own protocol, spoken over loopback by moto."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

KEY, SECRET = "AKIATESTOFOURSTORAGE", "a-secret-that-nobody-may-see"
"""Credentials of the loopback server; it takes any."""


@dataclass(frozen=True, slots=True)
class LoopbackS3:
    """A server of S3's protocol in this process."""

    port: int

    def address(self, path: str) -> str:
        """The address of `bucket/prefix` on the server."""
        return f"s3://{path}?endpoint_override=127.0.0.1:{self.port}&region=us-east-1&scheme=http"

    def make_bucket(self, name: str) -> None:
        from pyarrow import fs

        options = {"endpoint_override": f"127.0.0.1:{self.port}", "region": "us-east-1", "scheme": "http"}
        fs.S3FileSystem(**options, allow_bucket_creation=True).create_dir(name)


@contextmanager
def loopback_s3() -> Iterator[LoopbackS3]:
    """Serve S3 while the context lasts, with credentials for it in the environment."""
    import logging

    from moto.server import ThreadedMotoServer

    before = dict(os.environ)
    os.environ.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_EC2_METADATA_DISABLED="true")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield LoopbackS3(int(server.get_host_and_port()[1]))
    finally:
        server.stop()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
            os.environ.pop(name)
        os.environ.update({name: value for name, value in before.items() if name.startswith("AWS_")})
