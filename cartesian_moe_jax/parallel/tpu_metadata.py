"""What the metadata server of Google's cloud tells a Cloud TPU VM about its slice."""

import re
import urllib.error
import urllib.request
from collections.abc import Mapping

from cartesian_moe_jax.errors import UserError

SERVER, FOLDER = "metadata.google.internal", "computeMetadata/v1/instance/attributes"
SECONDS = 20.0


def metadata(environ: Mapping[str, str], key: str) -> str:
    """Return one attribute of this machine; raises UserError if it cannot be had.

    ``GCE_METADATA_IP`` in ``environ`` names another server.
    """
    url = f"http://{environ.get('GCE_METADATA_IP') or SERVER}/{FOLDER}/{key}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    # Never through a proxy: it would be another machine's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=SECONDS) as answer:
            return answer.read().decode()
    except (OSError, urllib.error.URLError) as error:
        raise UserError(
            f"{url} does not tell the TPU slice's hosts ({error}): give --coordinator, "
            "--processes and --process, or --processes=1 for this host alone"
        ) from error


def tpu_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the server has for this host: of several slices, MEGASCALE_...

    Those in ``environ`` go before them.
    """
    lines = metadata(environ, "tpu-env").splitlines()
    pairs = (re.fullmatch(r"\s*(\w+)\s*:\s*'?(.*?)'?\s*", line) for line in lines)
    return {pair[1]: pair[2] for pair in pairs if pair} | dict(environ)
