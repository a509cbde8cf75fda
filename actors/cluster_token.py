"""Whether a running cluster lets us in, asked before Ray asks: with a wrong token, or none, Ray would try for ever.

Given the address of a cluster's head; raises one ValueError that says what to do. The job API's client
(`jobs/submit/client.py`) sends the same headers and says the same words.
"""

from __future__ import annotations

import os
from typing import Any

ANSWER_DEADLINE_S = 10.0
REMEDY = "put the cluster's token into ~/.ray/auth_token or its path into RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token"


def check_token(address: str) -> None:
    """Nothing where the head lets us in, or where it is not what speaks there: Ray says that itself."""
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    headers = token_headers(address)
    messages: Any = gcs_service_pb2  # generated, without types
    metadata = [(key.lower(), value) for key, value in headers.items()]
    with grpc.insecure_channel(address) as channel:
        try:
            head = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            head.GetClusterId(messages.GetClusterIdRequest(), ANSWER_DEADLINE_S, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise refusal(address) from None


def token_headers(address: str) -> dict[str, str]:
    """With the user's token where RAY_AUTH_MODE asks for one; empty where it does not."""
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled
    from ray.exceptions import AuthenticationError

    try:
        return dict(get_auth_headers_if_auth_enabled({}))
    except (AuthenticationError, RuntimeError) as error:
        said = str(error).strip().split(". ")[0]
        raise ValueError(f"the cluster at {address} cannot be asked, there is no token ({said}): {REMEDY}") from None


def refusal(address: str) -> ValueError:
    """Of a cluster that was sent `token_headers`, and did not take them."""
    what = "refuses the token that was sent" if token_headers(address) else "asks for a token, and none was sent"
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    return ValueError(f"the cluster at {address} {what} (RAY_AUTH_MODE is {mode}): {REMEDY}")
