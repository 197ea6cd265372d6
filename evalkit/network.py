"""Whether the Hugging Face hub answers: asked once by a process, for two seconds at most.

Its libraries would ask again and again for half a minute, with a warning each time.
"""

from __future__ import annotations

import ssl
import threading
import urllib.request
from functools import cache
from urllib.error import HTTPError, URLError

# A first answer takes well under a second where there is a network.
SECONDS = 2.0


@cache
def hub_answers() -> bool:
    """Whether the hub gives any answer within two seconds; False where HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        if _answers(constants.ENDPOINT):
            answered.set()
        done.set()

    # A name server that is silent keeps to no timeout: its thread is left behind.
    done = threading.Event()
    threading.Thread(target=ask, daemon=True).start()
    done.wait(SECONDS)
    return answered.is_set()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, method="HEAD"),
            timeout=SECONDS,
        ):
            return True
    except HTTPError:
        return True
    except URLError as error:
        # A certificate that only the hub's own library knows was sent by somebody who is there.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError):
        return False
