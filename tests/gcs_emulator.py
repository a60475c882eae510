"""A stand-in for Google Cloud Storage that speaks its protocol: gcp-storage-emulator, mended.

    python -m tests.gcs_emulator PORT FOLDER

serves gs://bucket, which keeps its objects in FOLDER, on a port of this machine (0: a free one)
and prints where: what ``environment`` returns leads gcsfs and TensorStore there.

It answers one request at a time, so that nothing comes between a check and its write.
"""

import sys
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import HTTPServer
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

HOST, BUCKET = "127.0.0.1", "bucket"
ABSENT = "0"
"""The generation that stands for an object that is not there."""
PLAIN_HANDLERS, plain_body = server.HANDLERS, server._read_raw_data

Handler = Callable[..., None]


def make_server(port: int, folder: str) -> HTTPServer:
    """Return a server that is ready to serve, its ``server_port`` being the one it has."""
    server.HANDLERS = tuple(
        (path, {method: with_generations(handler) for method, handler in handlers.items()})
        for path, handlers in PLAIN_HANDLERS
    )
    server._read_raw_data = whole_body
    storage = Storage(data_dir=folder)
    buckets.create_bucket(BUCKET, storage)
    return HTTPServer((HOST, port), partial(server.RequestHandler, storage))


def with_generations(handler: Handler) -> Handler:
    """Let a handler of one object keep to the generation that is asked for, and tell it.

    TensorStore writes an index only if it is still the one that it has read
    (``ifGenerationMatch``), and reads only what it does not have yet (``ifGenerationNotMatch``):
    the emulator ignores both, so that writers at once would lose each other's arrays. And of each
    answer TensorStore wants ``x-goog-generation``, without which it gives up ("Malformed
    StorageGeneration").
    """
    if handler not in (objects.get, objects.delete, objects.download, objects.insert):
        return handler

    def handle(request: Any, response: Any, storage: Storage, *rest: Any) -> None:
        name = request.params.get("object_id") or _asked(request, "name")
        if name is None:  # gcsfs names the object in the body, and asks for no generation
            return handler(request, response, storage, *rest)
        there = _generation(request, storage, name)
        if _asked(request, "ifGenerationMatch") not in (None, there):
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif there != ABSENT and _asked(request, "ifGenerationNotMatch") == there:
            response.status = HTTPStatus.NOT_MODIFIED
        else:
            handler(request, response, storage, *rest)
            response["x-goog-generation"] = _generation(request, storage, name)

    return handle


def whole_body(request_handler: Any) -> bytes | None:
    """Read the body of a request; raises ConnectionError if the sender went before its end.

    The emulator makes an object of what has arrived. Google makes none, which is why a process
    that is killed leaves no half of a checkpoint's file behind.
    """
    body = plain_body(request_handler)
    if len(body or b"") < int(request_handler.headers.get("Content-Length") or 0):
        raise ConnectionError("the upload broke off")
    return body


def environment(url: str) -> dict[str, str]:
    """Return the variables that lead a process's gcsfs and TensorStore to the server at ``url``."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_CLOUD_PROJECT": "test",
    }


def _asked(request: Any, field: str) -> str | None:
    return request.query.get(field, [None])[0]


def _generation(request: Any, storage: Storage, name: str) -> str:
    try:
        return storage.get_file_obj(request.params["bucket_name"], name)["generation"]
    except NotFound:
        return ABSENT


if __name__ == "__main__":
    running = make_server(int(sys.argv[1]), sys.argv[2])
    print(f"http://{HOST}:{running.server_port}", flush=True)
    running.serve_forever()
