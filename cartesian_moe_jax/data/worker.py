"""A process that does jobs, started by `jobs.Worker`."""

import json
import sys
import traceback
from multiprocessing.connection import Connection

from cartesian_moe_jax.data.jobs import make_job, send_reply
from cartesian_moe_jax.errors import UserError


def serve(connection: Connection) -> None:
    """Do what is asked until the other side closes the connection."""
    job = None
    setup = json.loads(connection.recv_bytes())

    def report(message: dict) -> None:
        connection.send_bytes(json.dumps({"report": message}).encode())

    while True:
        request = json.loads(connection.recv_bytes())
        try:
            job = job or make_job(setup["job"], setup["settings"])
            reply = job(request, report)
        except UserError as error:
            connection.send_bytes(json.dumps({"wrong": str(error)}).encode())
        except OSError as error:
            connection.send_bytes(json.dumps({"refused": error.strerror or str(error)}).encode())
        except Exception:
            connection.send_bytes(json.dumps({"crash": traceback.format_exc()}).encode())
        else:
            send_reply(connection, reply)


if __name__ == "__main__":
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, OSError):
        sys.exit()  # the other side is gone
